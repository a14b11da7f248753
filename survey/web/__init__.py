"""The pages, as a FastAPI application.

`app` assembles the routers of `routes` around one `site.Site`; `load` is a load test of it.
"""
