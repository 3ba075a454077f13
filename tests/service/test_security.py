"""What nobody should be able to do over HTTP."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from autotc.errors import SpecError
from autotc.search.spec import SearchSpec
from autotc.service import queue
from autotc.service.guard import MOST_BYTES
from autotc.service.roots import Roots
from autotc.store import Store
from tests.service.conftest import Clients

READS = (
    "/openapi.json",
    "/v1/jobs",
    "/v1/jobs/1",
    "/v1/jobs/1/events",
    "/v1/studies",
    "/v1/studies/done/front",
    "/v1/studies/done/policy",
)
SUBMITS = ("/v1/jobs", "/v1/jobs/1/stop")
BODY = {"model": "qwen2.5-vl"}


def test_every_endpoint_wants_a_token_of_its_scope(clients: Clients, store: Store) -> None:
    for client in (clients.nobody, clients.wrong, clients.gone):
        for path in READS:
            assert client.get(path).status_code == 401, path
        for path in SUBMITS:
            assert client.post(path, json=BODY).status_code == 401, path
    for path in READS:
        assert clients.submits.get(path).status_code == 403, path
    for path in SUBMITS:
        assert clients.reads.post(path, json=BODY).status_code == 403, path
    assert store.jobs() == []
    # the lists above are complete: nothing else answers without a token
    described = clients.reads.get("/openapi.json").json()["paths"]
    names = {"{job_id}": "1", "{study}": "done"}
    every = set()
    for path, methods in described.items():
        for name, value in names.items():
            path = path.replace(name, value)
        every |= {(method, path) for method in methods}
    assert every == {("get", p) for p in (*READS[1:], "/healthz")} | {("post", p) for p in SUBMITS}


@pytest.mark.parametrize(
    "header", ["Basic YTpi", "Bearer", "Bearer ", "bearer \x00", "Bearer " + "x" * 5000, "Bearer ' OR 1=1 --"]
)
def test_what_is_no_token_is_none(clients: Clients, header: str) -> None:
    assert clients.nobody.get("/v1/jobs", headers={"Authorization": header}).status_code == 401


def test_secrets_are_neither_stored_nor_logged(
    clients: Clients, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "autotc.service"):
        clients.both.get("/v1/jobs")
        clients.wrong.get("/v1/jobs")
    lines = [json.loads(r.message) for r in caplog.records if r.name == "autotc.service"]
    assert [(x["path"], x["status"], x["token"]) for x in lines] == [
        ("/v1/jobs", 200, "both"),
        ("/v1/jobs", 401, None),
    ]
    assert store.engine.url.database is not None
    store.close()
    folder = Path(store.engine.url.database).parent
    kept = b"".join(p.read_bytes() for p in folder.glob("autotc.db*")) + caplog.text.encode()
    assert not any(secret.encode() in kept for secret in clients.secrets)


OUTSIDE = (
    "../outside/secret.jsonl",
    "..%2foutside%2fsecret.jsonl",
    "%2e%2e/outside/secret.jsonl",
    "..%252foutside%252fsecret.jsonl",
    "..\\outside\\secret.jsonl",
    "my.jsonl\x00",
    "my.jsonl\x00.png",
    "link.jsonl",
    "./../data/../outside/secret.jsonl",
    "/etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1/x.jsonl",
    "~/x.jsonl",
    "",
    ".",
    "a" * 5000,
)


def test_data_lie_below_the_data_roots(clients: Clients, store: Store, roots: Roots, tmp_path: Path) -> None:
    for name in (*OUTSIDE, str(tmp_path / "outside/secret.jsonl"), str(tmp_path / "data/link.jsonl")):
        answer = clients.both.post("/v1/jobs", json={**BODY, "data": name})
        assert answer.status_code == 422, name
        assert "secret" not in answer.text and str(tmp_path) not in answer.text
    assert store.jobs() == []
    for name in ("my.jsonl", str(tmp_path / "data/my.jsonl")):
        assert clients.both.post("/v1/jobs", json={**BODY, "data": name}).status_code == 201
    assert {job.spec["data"] for job in store.jobs()} == {str((tmp_path / "data/my.jsonl").resolve())}


def test_models_are_aliases_or_lie_below_the_model_roots(
    clients: Clients, store: Store, tmp_path: Path
) -> None:
    for name in (*OUTSIDE, "link", "mine/../../outside", str(tmp_path / "outside"), "someone/some-model"):
        assert clients.both.post("/v1/jobs", json={"model": name}).status_code == 422, name
    assert clients.both.post("/v1/jobs", json={"model": "mine"}).status_code == 201
    assert store.jobs()[0].spec["model"] == str((tmp_path / "models/mine").resolve())


def test_without_roots_there_are_only_aliases_and_the_built_in_data() -> None:
    assert Roots().model("QWEN2.5-VL") == "qwen2.5-vl"
    with pytest.raises(SpecError, match="--model-root"):
        Roots().model("/")
    with pytest.raises(SpecError, match="--data-root"):
        Roots().data("/etc/passwd")


@pytest.mark.parametrize("image", ["../outside/x.png", "/etc/passwd", ["a.png", "../../x.png"]])
def test_pictures_lie_below_the_data_roots(roots: Roots, image: Any) -> None:
    (file,) = [folder / "my.jsonl" for folder in roots.datas]
    roots.pictures(file)
    file.write_text('{"image": "a.png"}\nnot json\n' + json.dumps({"image": image}) + "\n")
    with pytest.raises(SpecError, match=r"line 3: the picture is not below a --data-root"):
        roots.pictures(file)


def test_nothing_is_downloaded_or_stored_elsewhere(clients: Clients, store: Store) -> None:
    for more in ({"download": True}, {"storage": "sqlite:///elsewhere.db"}, {"trust_remote_code": True}):
        assert clients.both.post("/v1/jobs", json={**BODY, **more}).status_code == 422, more
    assert store.jobs() == []


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "a b"]
)
def test_another_host_is_refused(clients: Clients, host: str) -> None:
    for path in ("/healthz", "/v1/jobs"):
        assert clients.both.get(path, headers={"Host": host}).status_code == 403


def test_the_names_that_were_allowed_are_served(clients: Clients) -> None:
    for host in ("localhost:8642", "AUTOTC.example", "[::1]:8642", "127.0.0.1"):
        assert clients.both.get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "file://", "x"]
)
def test_pages_of_another_origin_are_refused(clients: Clients, store: Store, origin: str) -> None:
    answer = clients.both.post("/v1/jobs", json=BODY, headers={"Origin": origin})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    assert clients.both.options("/v1/jobs", headers={"Origin": origin}).status_code == 403
    assert store.jobs() == []


HOSTILE = (
    "'; DROP TABLE job; --",
    '" OR ""="',
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "{{7*7}} ${7*7} %s %n",
    "\u202eevil",
    "a\r\nSet-Cookie: x=1",
    "\ud800",
)
TEXTS = (
    "model",
    "workload",
    "data",
    "study",
    "device",
    "sampler",
    "strategy",
    "evaluate_on",
    "flops_convention",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_sql_and_markup_are_text(clients: Clients, store: Store, text: str) -> None:
    before = store.check()["studies"]
    for name in TEXTS:
        body = json.dumps({**BODY, name: text}).encode()
        answer = clients.both.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (201, 422), (name, answer.text)
        assert answer.headers["content-type"] == "application/json"
        assert name == "device" or answer.status_code == 422, name
    for name in ("reducers", "constraints"):
        body = json.dumps({**BODY, name: [text]}).encode()
        answer = clients.both.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, (name, answer.text)
    if text.isprintable():
        for path in ("front", "policy"):
            found = clients.reads.get(f"/v1/studies/{text.replace('%', '%25').replace('/', '%2F')}/{path}")
            assert found.status_code == 404, found.text
    assert store.check()["studies"] == before


def test_bodies_are_small_and_flat(clients: Clients, store: Store) -> None:
    typed = {"Content-Type": "application/json"}
    for body, code in (
        (b'{"model": "' + b"a" * MOST_BYTES + b'"}', 413),
        (b"[" * 30_000, 400),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
        (b'{"model": ' + b"[" * 15 + b"]" * 15 + b"}", 422),
        (b'{"model": "[[[[[[[[[[[[[[[[[[[[[[[[[\\"[[["}', 422),
        (b'{"model": "qwen2.5-vl", "trials": ' + b"9" * 6000 + b"}", 422),
        (b'{"model": "qwen2.5-vl", "max_tflops": NaN}', 422),
        (b'{"model": "qwen2.5-vl", "max_tflops": 1e999}', 422),
        (b'{"model": ', 422),
        (b"\xff\xfe", 422),
        (b"", 422),
    ):
        answer = clients.both.post("/v1/jobs", content=body, headers=typed)
        assert answer.status_code == code or (code == 422 and answer.status_code == 400), (
            body[:40],
            answer.text[:300],
        )

    def endless() -> Any:
        for _ in range(100):
            yield b" " * 4096

    assert clients.both.post("/v1/jobs", content=endless(), headers=typed).status_code == 413
    assert store.jobs() == []


def test_answers_carry_their_request_id_and_no_way_in_for_browsers(clients: Clients) -> None:
    answer = clients.reads.get("/v1/jobs", headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert (
        answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"
    )
    other = clients.reads.get("/v1/jobs/99", headers={"X-Request-Id": "<script>"})
    assert (
        len(other.headers["x-request-id"]) == 32 and other.json()["request"] == other.headers["x-request-id"]
    )


def test_the_queue_takes_any_path_from_a_command_line_but_no_name_that_is_a_text(store: Store) -> None:
    job = queue.submit(store, SearchSpec(model="/models/x", data="/data/x.jsonl", device="cuda:3", workers=4))
    assert job.spec == {"model": "/models/x", "data": "/data/x.jsonl"} and job.submitted_by is None
    with pytest.raises(SpecError, match="study: a name has"):
        queue.submit(store, SearchSpec(model="m", study="../../x"))
