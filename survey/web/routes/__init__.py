"""One router for each part of the site: consent and data, rounds, music, the owner's page."""
