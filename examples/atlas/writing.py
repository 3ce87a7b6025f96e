"""What changes the atlas."""

from sqlalchemy import update

from examples.atlas import models
from examples.atlas.context import AtlasContext

__all__ = ["set_population"]


async def set_population(context: AtlasContext, city_id: int, population: int) -> None:
    """Write the population of a city, commit, and tell those who follow it.

    Raises:
        ValueError: Nobody has so few people.
    """
    if population < 0:
        raise ValueError(f"a population is not negative, got {population}")
    statement = update(models.City).where(models.City.id == city_id).values(population=population)
    async with context.sessions.begin() as session:
        await session.execute(statement)
    context.database.changes.publish(city_id)
