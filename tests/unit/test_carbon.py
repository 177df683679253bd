"""Carbon facts: what a region's kilowatt-hour costs the air, and how a wrong name is met."""

import pytest

from gemmstone.catalog import carbon
from gemmstone.core.errors import BadRequest


def test_world_is_the_default_and_475_grams() -> None:
    grams, source = carbon.intensity()
    assert grams == 475.0
    assert "codecarbon" in source


@pytest.mark.parametrize("name", ["FRA", "fr", "France", " france "])
def test_a_country_has_many_spellings(name: str) -> None:
    assert carbon.intensity(name) == carbon.intensity("FRA")


def test_nuclear_and_hydro_countries_are_cleaner_than_coal_countries() -> None:
    sweden, france, germany, poland = (carbon.intensity(c)[0] for c in ("SWE", "FRA", "DEU", "POL"))
    assert sweden < 60
    assert france < 100
    assert france < germany < poland


def test_cloud_regions_resolve_with_and_without_provider() -> None:
    assert carbon.intensity("us-east-1") == carbon.intensity("aws:us-east-1")
    assert carbon.intensity("us-central1") == carbon.intensity("gcp:us-central1")


def test_pue_of_a_region_or_the_survey_average() -> None:
    assert carbon.pue("gcp:us-central1")[0] == 1.11
    assert carbon.pue("FRA") == (carbon.DEFAULT_PUE, carbon.DEFAULT_PUE_SOURCE)


def test_every_row_is_physical_and_sourced() -> None:
    for region in carbon.regions():
        grams, source = carbon.intensity(region)
        assert 1 < grams < 1400, region  # from pure hydropower to old gas and oil plants with heavy grid losses
        assert "github.com" in source
        assert 1.0 <= carbon.pue(region)[0] < 2.5


def test_the_file_stays_small() -> None:
    assert carbon.FILE.stat().st_size < 60_000
    assert len(set(carbon.regions())) == len(carbon.regions())


def test_a_typo_gets_a_suggestion() -> None:
    with pytest.raises(BadRequest, match=r"unknown region 'Germny': did you mean .*'Germany'"):
        carbon.intensity("Germny")


@pytest.mark.parametrize("name", ["", "  ", "../../etc/passwd", "x" * 1_000_000])
def test_hostile_names_are_refused_in_one_short_line(name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        carbon.intensity(name)
    assert len(str(caught.value)) < 2000
    assert "\n" not in str(caught.value)
