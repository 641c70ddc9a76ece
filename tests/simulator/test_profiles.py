"""Models files: what can be said, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.simulator import ProfileError, build_profile, read_profile


@pytest.mark.parametrize("name", ["demo", "recorded"])
def test_built_in_profiles_can_be_read(name: str) -> None:
    profile = read_profile(name)
    assert profile.store.manifests


def test_recorded_models_have_the_recorded_digests_and_sizes() -> None:
    store = read_profile("recorded").store
    found = {name.shortest: (manifest.digest[:8], manifest.size) for name, manifest in store.manifests.items()}
    assert found["tiny:latest"] == ("cf995257", 382_234)
    assert found["big:latest"] == ("00c77b82", 674_123_677)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"weights": {"w": {"warp": 9}}}, r"weights\.w\.warp"),
        ({"machine": {"warp": 9}}, r"machine\.warp"),
        ({"models": [{"name": "a", "warp": 9}]}, r"models\[0\]\.warp"),
        ({"models": [{"name": "a b"}]}, r"models\[0\]\.name"),
        ({"models": [{"name": "a", "weights": "none"}]}, r"models\[0\]\.weights"),
        ({"weights": [1]}, "weights"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(data: dict[str, Any], place: str) -> None:
    with pytest.raises(ProfileError, match=place):
        build_profile({"weights": {}, **data})


def test_there_are_no_other_profiles() -> None:
    with pytest.raises(ProfileError, match="demo, recorded"):
        read_profile("real")
