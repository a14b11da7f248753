"""The answers' database, on SQLite or PostgreSQL.

`schema` holds the tables and their migrations, `rows` what a row becomes, `store` the queries.
"""
