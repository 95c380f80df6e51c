"""Seeds, fingerprints and times."""

import itertools

import pytest

from gelora.provenance import fingerprint, generator, package_versions, timestamp


def test_a_generator_depends_on_the_seed_and_on_every_name_alone():
    draws = {
        names: generator(*names).integers(2**62)
        for names in itertools.product((0, 1), ("twonn", "mle"), ("encoder", "decoder"), (0, 1))
    }
    assert len(set(draws.values())) == len(draws)
    assert generator(0, "mle", "encoder", 1).integers(2**62) == draws[0, "mle", "encoder", 1]
    assert generator(0, "a", "b").integers(2**62) != generator(0, "ab").integers(2**62)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0", None])
def test_a_seed_must_be_a_non_negative_integer(seed):
    with pytest.raises(ValueError, match="`seed` must be an integer of at least 0"):
        generator(seed)


def test_a_fingerprint_depends_on_how_bytes_are_split():
    assert fingerprint([b"ab", b"c"]) != fingerprint([b"a", b"bc"])
    assert fingerprint([b"ab"]) == fingerprint(iter([b"ab"]))


def test_the_time_follows_source_date_epoch(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert timestamp() == "1970-01-02T00:00:00+00:00"


def test_versions_name_what_is_installed():
    versions = package_versions()
    assert {"python", "gelora", "torch", "numpy"} <= set(versions)
    assert "no-such-package" not in package_versions(["no-such-package"])
