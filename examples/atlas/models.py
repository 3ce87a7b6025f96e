"""The tables of the atlas.

There is no `relationship()` here: a lazy one is an N+1 query in disguise, and following keys is
what the loaders are for.
"""

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = [
    "Base",
    "Capital",
    "City",
    "Continent",
    "Country",
    "Currency",
    "Neighbour",
    "TimeZone",
]


class Base(DeclarativeBase):
    """Hold the tables that a fill drops and makes anew: all are named `atlas_…`."""


class Continent(Base):
    __tablename__ = "atlas_continents"

    code: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]


class Currency(Base):
    __tablename__ = "atlas_currencies"

    code: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]


class TimeZone(Base):
    __tablename__ = "atlas_time_zones"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Country(Base):
    __tablename__ = "atlas_countries"

    code: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    population: Mapped[int] = mapped_column(BigInteger)
    continent_code: Mapped[str] = mapped_column(ForeignKey(Continent.code), index=True)
    currency_code: Mapped[str | None] = mapped_column(ForeignKey(Currency.code), index=True)


class Neighbour(Base):
    """Say that two countries share a land border; each border is here once from either side."""

    __tablename__ = "atlas_neighbours"

    country_code: Mapped[str] = mapped_column(ForeignKey(Country.code), primary_key=True)
    neighbour_code: Mapped[str] = mapped_column(ForeignKey(Country.code), primary_key=True)


class City(Base):
    __tablename__ = "atlas_cities"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    population: Mapped[int] = mapped_column(BigInteger)
    latitude: Mapped[float]
    longitude: Mapped[float]
    country_code: Mapped[str] = mapped_column(ForeignKey(Country.code))
    time_zone_id: Mapped[int] = mapped_column(ForeignKey(TimeZone.id))


# The order that "the five largest cities of each country" is read in.
Index("atlas_cities_by_size", City.country_code, City.population.desc(), City.id)


class Capital(Base):
    """Say which city is the capital of which country.

    A column in either table would make the two tables refer to each other in a circle.
    """

    __tablename__ = "atlas_capitals"

    country_code: Mapped[str] = mapped_column(ForeignKey(Country.code), primary_key=True)
    city_id: Mapped[int] = mapped_column(ForeignKey(City.id))
