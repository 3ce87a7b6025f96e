"""Serve the countries and cities of the world over GraphQL without N+1 queries."""
