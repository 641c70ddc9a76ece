"""The compose files, rendered by the specification's own implementation in every combination, and what they come to."""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.cli import app
from proxy.edge.guard import Guard
from proxy.errors import Forbidden, MisdirectedHost, Unauthorized
from proxy.settings import Settings, load
from proxy.simulator import read_profile
from scripts.compose import compose_variables
from scripts.pages import example_env
from tests.deploy.dockerfile import read
from tests.deploy.prepared import needs_openssl, prepare
from tests.deploy.rendered import BASE, ROOT, ComposeError, program, render

FILES = sorted(path.name for path in ROOT.glob("docker-compose*.yml"))
GPU, SIMULATED = "docker-compose.gpu.yml", "docker-compose.simulated.yml"
COMBINATIONS = [(files, profiles) for files in ((), (GPU,), (SIMULATED,)) for profiles in ((), ("edge",))]
# The image of Ollama runs as root and writes where it likes; that of the exporter as well.
UNHARDENED = {"ollama", "gpu-exporter"}

# Its first run on a machine builds the program that renders.
pytestmark = pytest.mark.timeout(300)
needs_go = pytest.mark.usefixtures("go")
each = pytest.mark.parametrize(("files", "profiles"), COMBINATIONS, ids=lambda part: "+".join(part) or "plain")


@pytest.fixture(scope="module")
def go() -> None:
    made, reason = program()
    if made is None:
        pytest.skip(reason)


def services(*files: str, profiles: tuple[str, ...] = ("edge",), **more: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = render(BASE, *files, profiles=profiles, **more)["services"]
    return found


def said(program: str, *arguments: str) -> tuple[int, str]:
    """What a program of the development environment says about all the files."""
    command = [Path(sys.executable).parent / program, *arguments, *(ROOT / file for file in FILES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_the_files_are_of_the_specification_s_schema() -> None:
    assert len(FILES) == 3
    code, text = said("check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    assert code == 0, text


def test_the_files_are_tidy() -> None:
    rules = "{extends: default, rules: {line-length: {max: 125}, document-start: disable, braces: disable}}"
    assert said("yamllint", "-d", rules) == (0, "")


@needs_go
@each
def test_the_files_fit_together_in_every_combination(files: tuple[str, ...], profiles: tuple[str, ...]) -> None:
    model = render(BASE, *files, profiles=profiles)
    assert model["name"] == "pilotlight"
    started = set(model["services"])
    assert {"ollama", "pilotlight", "prometheus", "grafana"} <= started
    assert ("nginx" in started, "gpu-exporter" in started) == ("edge" in profiles, GPU in files)
    for name, service in model["services"].items():
        assert set(service.get("depends_on", {})) <= started, name
        for secret in service.get("secrets", ()):
            assert secret["source"] in model["secrets"]
        assert set(service["networks"]) <= set(model["networks"])
        for volume in service.get("volumes", ()):
            if volume["type"] == "bind":
                # A folder that is not there would be made, empty, and root's.
                assert Path(volume["source"]).exists(), volume["source"]
                assert volume["read_only"]
            else:
                assert volume["source"] in model["volumes"]


@needs_go
@each
def test_each_service_is_pinned_limited_watched_and_without_privileges(
    files: tuple[str, ...], profiles: tuple[str, ...]
) -> None:
    for name, service in render(BASE, *files, profiles=profiles)["services"].items():
        tag = re.fullmatch(r"(?:[\w.-]+/)*[\w.-]+:([\w.-]+)", service["image"])
        assert tag is not None, name
        assert re.search(r"\d+\.\d+", tag[1]), name
        limits = service["deploy"]["resources"]["limits"]
        assert int(limits["memory"]) > 0, name
        assert limits["pids"] > 0, name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert "start_interval" in service["healthcheck"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert service["logging"]["options"]["max-size"], name
        assert not service.get("privileged", False), name
        assert not {"cap_add", "devices", "network_mode", "pid", "ipc"} & set(service), name
        if name not in UNHARDENED or (name == "ollama" and SIMULATED in files):
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name


@needs_go
@each
def test_what_is_published_is_on_loopback_and_ollama_is_not(files: tuple[str, ...], profiles: tuple[str, ...]) -> None:
    published = {
        (name, port["host_ip"], port["target"])
        for name, service in render(BASE, *files, profiles=profiles)["services"].items()
        for port in service.get("ports", ())
    }
    assert {address for _, address, _ in published} == {"127.0.0.1"}
    assert {(name, port) for name, _, port in published} == {
        ("pilotlight", 11435),
        ("pilotlight", 11436),
        ("grafana", 3000),
        *([("nginx", 8443)] if "edge" in profiles else []),
    }


@needs_go
def test_only_nginx_can_be_published_elsewhere_and_then_everybody_needs_a_key(tmp_path: Path) -> None:
    env = tmp_path / "env"
    env.write_text("EDGE_ADDRESS=0.0.0.0\nEDGE_PORT=443\nPUBLIC_HOST=models.example\nPROXY_PORT=1\n", encoding="utf-8")
    found = services(env=str(env))
    elsewhere = [
        (name, port["host_ip"], port["published"])
        for name, service in found.items()
        for port in service.get("ports", ())
        if port["host_ip"] != "127.0.0.1"
    ]
    assert elsewhere == [("nginx", "0.0.0.0", "443")]
    given = found["pilotlight"]["environment"]
    assert given["PILOTLIGHT_EDGE__ALLOW_ANONYMOUS"] == "false"
    assert given["PILOTLIGHT_EDGE__HOSTS"] == '["pilotlight", "models.example"]'


@needs_go
def test_ollama_and_the_proxy_are_told_the_same(tmp_path: Path) -> None:
    env = tmp_path / "env"
    told = {name: "7" for name, _ in compose_variables() if name.startswith("OLLAMA_")}
    assert {"OLLAMA_NUM_PARALLEL", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_KEEP_ALIVE"} <= set(told)
    env.write_text("".join(f"{name}={value}\n" for name, value in told.items()), encoding="utf-8")
    for files in ((), (SIMULATED,)):
        found = services(*files, env=str(env))
        assert found["ollama"]["environment"] == told
        assert told.items() <= found["pilotlight"]["environment"].items()
    settings = load(None, found["pilotlight"]["environment"] | {"PILOTLIGHT_EDGE__ALLOW_ANONYMOUS": "true"}, {})
    assert (settings.scheduler.parallel, settings.scheduler.max_loaded_models) == (7, 7)


def settings_in_compose(deploy: Path, env: str | None = None, *files: str) -> Settings:
    """What the proxy starts with: its file, its environment."""
    pilotlight = services(*files, env=env)["pilotlight"]
    (mount,) = pilotlight["volumes"]
    inside = pilotlight["command"][pilotlight["command"].index("--config") + 1]
    assert inside.startswith(f"{mount['target']}/")
    file = deploy / Path(mount["source"]).relative_to(ROOT / "deploy") / inside.rpartition("/")[2]
    return load(file, pilotlight["environment"], {})


def fields(host: str, key: str = "", *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    shown = [(b"Authorization", f"Bearer {key}".encode())] if key else []
    return [(b"Host", host.encode()), *shown, *more]


@needs_go
@needs_openssl
def test_who_may_do_what_in_compose(tmp_path: Path) -> None:
    deploy = prepare(tmp_path, "llama3.2:3b")
    env = tmp_path / "env"
    env.write_text("EDGE_ADDRESS=0.0.0.0\nPUBLIC_HOST=models.example\n", encoding="utf-8")
    keys = {
        name: (deploy / "secrets" / f"{name}.key").read_text(encoding="ascii").strip() for name in ("manage", "read")
    }
    forwarded = (b"X-Forwarded-For", b"203.0.113.7")
    gateway, prometheus = "172.18.0.1", "172.19.0.4"

    def guard(settings: Settings) -> Guard:
        return Guard(settings, own_names=(), authority=b"ollama:11434", secret=bytes(32))

    def outcome(
        settings: Settings, method: str, path: str, sent: list[tuple[bytes, bytes]], peer: str = gateway
    ) -> str:
        try:
            if path == "/metrics":
                guard(settings).admit_reader(method, sent, peer=peer, local="172.18.0.3", now_unix=0)
            else:
                guard(settings).admit(method, path, sent, peer=peer, local="172.18.0.3", now_unix=0)
        except (Forbidden, MisdirectedHost, Unauthorized) as refused:
            return str(refused.status)
        return "yes"

    plain, public = settings_in_compose(deploy), settings_in_compose(deploy, str(env))
    # A program on this machine comes by the network's gateway, as localhost.
    assert outcome(plain, "POST", "/api/chat", fields("localhost:11435")) == "yes"
    assert outcome(plain, "POST", "/api/pull", fields("localhost:11435")) == "403"
    assert outcome(plain, "POST", "/api/pull", fields("localhost:11435", keys["manage"])) == "yes"
    assert outcome(plain, "POST", "/api/chat", fields("models.example")) == "421"
    for settings in (plain, public):
        assert outcome(settings, "GET", "/metrics", fields("pilotlight:11436", keys["read"]), prometheus) == "yes"
        assert outcome(settings, "POST", "/api/chat", fields("pilotlight:11435", keys["read"]), prometheus) == "403"
    assert outcome(public, "GET", "/metrics", fields("pilotlight:11436"), prometheus) == "401"
    for host in ("localhost:11435", "models.example", "models.example:8443"):
        assert outcome(public, "POST", "/api/chat", fields(host, "", forwarded)) == "401"
        assert outcome(public, "POST", "/api/chat", fields(host, keys["manage"], forwarded)) == "yes"


@needs_go
def test_nginx_is_believed_about_addresses_and_its_network_can_be_another(tmp_path: Path) -> None:
    env = tmp_path / "env"
    env.write_text("EDGE_SUBNET=10.99.0.0/28\n", encoding="utf-8")
    for given, subnet in ((None, "172.30.114.0/24"), (str(env), "10.99.0.0/28")):
        model = render(BASE, profiles=("edge",), env=given)
        (config,) = model["networks"]["edge"]["ipam"]["config"]
        assert config["subnet"] == subnet
        environ = model["services"]["pilotlight"]["environment"] | {"PILOTLIGHT_EDGE__ALLOW_ANONYMOUS": "true"}
        assert load(None, environ, {}).edge.trusted_proxies == (subnet,)
        assert ipaddress.ip_network(subnet).is_private
        assert set(model["services"]["nginx"]["networks"]) == {"edge"}
        assert set(model["services"]["ollama"]["networks"]) == {"models"}


@needs_go
def test_the_settings_of_pilotlight_in_the_env_file_reach_it_and_secrets_do_not(tmp_path: Path) -> None:
    for file in FILES:
        shutil.copy(ROOT / file, tmp_path)
    text = re.sub(r"^# (?=[A-Z_]+=)", "", example_env(), flags=re.MULTILINE)
    assert "PILOTLIGHT_SCHEDULER__MAX_QUEUE=512\n" in text
    (tmp_path / ".env").write_text(text.replace("MAX_QUEUE=512", "MAX_QUEUE=9"), encoding="utf-8")
    model = render(BASE, folder=tmp_path, env=str(tmp_path / ".env"))
    environ = model["services"]["pilotlight"]["environment"]
    assert load(None, environ | {"PILOTLIGHT_EDGE__ALLOW_ANONYMOUS": "true"}, {}).scheduler.max_queue == 9
    assert environ["PILOTLIGHT_UPSTREAM__URL"] == "http://ollama:11434"
    assert {secret["source"] for secret in model["services"]["prometheus"]["secrets"]} == {"pilotlight_read_key"}
    assert not [name for name in environ if re.search("PASSWORD|SECRET|TOKEN", name)]


@needs_go
def test_the_example_changes_nothing(tmp_path: Path) -> None:
    for file in FILES:
        shutil.copy(ROOT / file, tmp_path)
    plain = {files: render(BASE, *files, folder=tmp_path, profiles=("edge",)) for files in ((), (GPU,), (SIMULATED,))}
    names = "|".join(name for name, _ in compose_variables())
    text = re.sub(rf"^# (?=({names})=)", "", example_env(), flags=re.MULTILINE)
    env = tmp_path / "env"
    env.write_text(text, encoding="utf-8")
    for files, model in plain.items():
        assert render(BASE, *files, folder=tmp_path, profiles=("edge",), env=str(env)) == model


@needs_go
def test_ports_commands_and_times_are_those_of_the_program() -> None:
    found = services()
    pilotlight = found["pilotlight"]
    settings = Settings()
    for name in ("listen", "admin"):
        port = getattr(settings, name).rpartition(":")[2]
        assert pilotlight["environment"][f"PILOTLIGHT_{name.upper()}"] == f"0.0.0.0:{port}"
    drain_s = settings.shutdown.lame_duck_s + settings.shutdown.grace_s
    for name in ("pilotlight", "nginx"):
        assert float(found[name]["stop_grace_period"].removesuffix("s")) > drain_s
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {pilotlight["command"][0], services(SIMULATED)["ollama"]["command"][0]} <= names
    _, (_, final) = read((ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8"))
    (health,) = final.texts("HEALTHCHECK")
    assert pilotlight["healthcheck"]["test"] == ["CMD", *yaml.safe_load(health.partition(" CMD ")[2])]


@needs_go
def test_the_proxy_starts_without_ollama_and_what_cannot_waits() -> None:
    found = services()
    conditions = {
        name: {other: wait["condition"] for other, wait in service.get("depends_on", {}).items()}
        for name, service in found.items()
    }
    assert conditions == {
        "ollama": {},
        "pilotlight": {"ollama": "service_started"},
        "prometheus": {"pilotlight": "service_started"},
        "grafana": {"prometheus": "service_healthy"},
        # It looks names up once, and one that it does not find ends it.
        "nginx": {"pilotlight": "service_healthy"},
    }
    assert found["nginx"]["depends_on"]["pilotlight"]["restart"]


@needs_go
def test_the_simulated_one_is_the_same_image_and_has_the_model_that_is_kept() -> None:
    found = services(SIMULATED)
    assert found["ollama"]["image"] == found["pilotlight"]["image"]
    assert found["ollama"]["build"] == found["pilotlight"]["build"]
    model = found["pilotlight"]["command"][-1]
    assert model in {f"{name.model}:{name.tag}" for name in read_profile("demo").store.manifests}


@needs_go
def test_the_gpu_is_ollama_s_and_prometheus_is_told_of_its_exporter() -> None:
    found = services(GPU)
    for name in ("ollama", "gpu-exporter"):
        (device,) = found[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["count"], "gpu" in device["capabilities"]) == ("nvidia", -1, True)
    (mount,) = (volume for volume in found["prometheus"]["volumes"] if volume["target"] == "/etc/prometheus-gpu")
    ((target,),) = (
        [*entry["targets"]] for entry in yaml.safe_load((Path(mount["source"]) / "targets.yml").read_text())
    )
    host, _, port = target.partition(":")
    assert host in found
    assert f"/{port}" in found[host]["healthcheck"]["test"][-1]
    assert set(found[host]["networks"]) <= set(found["prometheus"]["networks"])


@needs_go
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("services: {pilotlight: {depends_on: {olama: {condition: service_started}}}}", "olama"),
        ("services: {pilotlight: {read_onlyy: true}}", "read_onlyy"),
        ("services: {pilotlight: {networks: [nowhere]}}", "nowhere"),
        ("services: {pilotlight: {ports: ['127.0.0.1:99999:1']}}", "99999"),
        ("services: {pilotlight: {secrets: [unknown]}}", "unknown"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, wrong: str, said: str) -> None:
    """So that the other tests say something."""
    shutil.copy(ROOT / BASE, tmp_path)
    (tmp_path / "wrong.yml").write_text(wrong, encoding="utf-8")
    with pytest.raises(ComposeError, match=said):
        render(BASE, "wrong.yml", folder=tmp_path)
