from __future__ import annotations

from prometheus_client import CollectorRegistry

from proxy.observe.families import Families


def test_names_say_unit_and_kind() -> None:
    registry = CollectorRegistry()
    Families(registry)

    for family in registry.collect():
        assert family.name.split("_")[0] in {"llm", "pilotlight", "batch", "cache"}, family.name
        assert family.documentation
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_tokens")), family.name


def test_removing_a_model_leaves_nothing_of_it() -> None:
    registry = CollectorRegistry()
    families = Families(registry)
    for name in ("a:latest", "b:latest"):
        families.calls.labels(name, "api_chat", "ok").inc()
        families.ttft.labels(name, "warm").observe(1)
        families.loaded.labels(name).set(1)
        families.failed.labels(name, "missing").set(1)

    families.remove_model("a:latest")

    models = {sample.labels.get("model") for family in registry.collect() for sample in family.samples}
    assert models == {"b:latest"} | {None} & models
