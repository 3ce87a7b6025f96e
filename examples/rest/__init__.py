"""Serve the atlas as a REST API, with the loaders that the GraphQL server uses."""
