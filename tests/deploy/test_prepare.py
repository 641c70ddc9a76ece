"""``deploy/prepare``: what docker compose needs and no repository may hold."""

from __future__ import annotations

import base64
import os
import shutil
import ssl
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from proxy.edge.keys import KEY_BYTES, hash_key
from proxy.settings import load, warnings
from tests.deploy.prepared import ROOT, needs_openssl, prepare, run_prepare

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_openssl


def files(deploy: Path) -> dict[str, bytes]:
    return {str(path.relative_to(deploy)): path.read_bytes() for path in deploy.rglob("*") if path.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_its_settings_file_has_the_models_and_the_hashes_of_its_keys(tmp_path: Path) -> None:
    deploy = prepare(tmp_path, "llama3.2:3b", "hf.co/some-one/model_x:Q4_K_M")
    settings = load(deploy / "settings" / "pilotlight.yaml", {}, {})
    assert [model.name for model in settings.models] == ["llama3.2:3b", "hf.co/some-one/model_x:Q4_K_M"]
    assert settings.residency.pull_missing
    keys = {
        name: (deploy / "secrets" / f"{name}.key").read_text(encoding="ascii").strip() for name in ("manage", "read")
    }
    assert [(key.name, key.hash, key.scopes) for key in settings.keys] == [
        ("manage", hash_key(keys["manage"]), ("infer", "read", "manage")),
        ("prometheus", hash_key(keys["read"]), ("read",)),
    ]
    for key in keys.values():
        # As `pilotlight key new` makes them.
        assert key.startswith("pl_")
        assert len(base64.urlsafe_b64decode(f"{key.removeprefix('pl_')}=")) == KEY_BYTES
    assert not list(warnings(settings))


def test_other_users_of_the_machine_see_nothing_and_services_see_what_is_theirs(tmp_path: Path) -> None:
    deploy = prepare(tmp_path)
    assert mode(deploy / "secrets") == 0o700
    # A mounted secret keeps its rights, and each service runs as a user of its own; only you show the manage key.
    assert {path.name: mode(path) for path in (deploy / "secrets").iterdir()} == {
        "grafana.password": 0o644,
        "manage.key": 0o600,
        "read.key": 0o644,
        "tls.key": 0o644,
        "tls.pem": 0o644,
    }


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    before = files(prepare(tmp_path, "llama3.2:3b"))
    done = run_prepare(tmp_path, "mistral")
    assert done.returncode == 0
    assert files(tmp_path / "deploy") == before
    assert "models stay as they are" in done.stderr


def test_no_two_runs_make_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = files(prepare(tmp_path / "a")), files(prepare(tmp_path / "b"))
    assert set(one) == set(other)
    assert [name for name in one if one[name] == other[name]] == ["prepare"]


@pytest.mark.parametrize("missing", ["manage.key", "tls.key", "tls.pem", "grafana.password"])
def test_what_is_missing_is_made_and_a_key_that_the_settings_do_not_know_is_told(tmp_path: Path, missing: str) -> None:
    secrets = prepare(tmp_path) / "secrets"
    kept = files(secrets)
    (secrets / missing).unlink()
    done = run_prepare(tmp_path)
    assert {name: text for name, text in kept.items() if name != missing}.items() <= files(secrets).items()
    if missing == "manage.key":
        assert done.returncode == 1
        assert hash_key((secrets / missing).read_text(encoding="ascii").strip()) in done.stderr
    else:
        # Half of a pair may belong to a certificate of somebody's own.
        assert (done.returncode, (secrets / missing).exists()) == (0, not missing.startswith("tls"))


@pytest.mark.parametrize(
    ("line", "name"),
    [("", "DNS:localhost"), ("PUBLIC_HOST=models.example\n", "DNS:models.example"), ("PUBLIC_HOST='192.0.2.7'", "IP")],
)
def test_the_certificate_is_for_the_public_name(tmp_path: Path, line: str, name: str) -> None:
    (tmp_path / ".env").write_text(f"EDGE_PORT=1\n{line}", encoding="utf-8")
    pem = prepare(tmp_path) / "secrets" / "tls.pem"
    told = subprocess.run(
        ["openssl", "x509", "-in", pem, "-noout", "-text"], capture_output=True, text=True, check=True
    ).stdout
    assert (name if name != "IP" else "IP Address:192.0.2.7") in told
    assert "IP Address:127.0.0.1" in told
    ssl.create_default_context(cafile=pem)


@pytest.mark.parametrize("model", ["a b", '"', "-x", "a\nb", "a;b", ""])
def test_what_is_no_name_of_a_model_is_refused_before_anything_is_made(tmp_path: Path, model: str) -> None:
    done = run_prepare(tmp_path, model)
    assert done.returncode == 2
    assert "usage: deploy/prepare [MODEL]..." in done.stderr
    assert set(files(tmp_path / "deploy")) == {"prepare"}


def test_without_openssl_it_says_so_and_makes_nothing(tmp_path: Path) -> None:
    few = tmp_path / "bin"
    few.mkdir()
    for name in ("dirname", "sh"):
        (few / name).symlink_to(shutil.which(name) or "")
    script = shutil.copy2(ROOT / "deploy" / "prepare", tmp_path)
    done = subprocess.run([script], capture_output=True, text=True, check=False, env={"PATH": str(few)})
    assert (done.returncode, done.stderr) == (1, "deploy/prepare: openssl is needed\n")
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "prepare"}


def test_git_takes_none_of_it() -> None:
    for name in ("secrets/manage.key", "secrets/tls.key", "settings/pilotlight.yaml"):
        asked = subprocess.run(["git", "check-ignore", "-q", f"deploy/{name}"], cwd=ROOT, check=False)
        assert asked.returncode in (0, 128), name
    assert os.access(ROOT / "deploy" / "prepare", os.X_OK)
