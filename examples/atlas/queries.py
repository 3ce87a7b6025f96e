"""The three queries of the demo, each deeper or less even than the one before."""

__all__ = ["LARGEST_CITIES", "NEIGHBOURS", "QUERIES", "UNEVEN"]

NEIGHBOURS = """
query Neighbours {
  countries(first: 120) {
    name
    neighbours {
      name
      capital { name population }
    }
  }
}
"""

LARGEST_CITIES = """
query LargestCities {
  continents {
    name
    countries {
      name
      largestCities(first: 5) {
        name
        population
        country { name }
      }
    }
  }
}
"""

# `currency` and `timeZone` ask for permission first, which takes some objects longer than others.
UNEVEN = """
query Uneven {
  countries(first: 60) {
    name
    currency {
      name
      countries {
        name
        capital {
          name
          timeZone { name }
        }
      }
    }
    neighbours {
      name
      continent { name }
    }
  }
}
"""

QUERIES = {
    "countries → neighbours → capital": NEIGHBOURS,
    "continents → countries → five cities → country": LARGEST_CITIES,
    "uneven branches behind a permission check": UNEVEN,
}
