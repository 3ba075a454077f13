"""The HTTP service as its clients see it."""

from __future__ import annotations

import json

import pytest

from autotc.errors import SpecError
from autotc.policy import load_policy
from autotc.service import tokens
from autotc.service.serving import refuse_open_doors
from autotc.store import Store
from tests.service.conftest import Clients


def test_a_search_is_submitted_listed_shown_and_stopped(clients: Clients, store: Store) -> None:
    made = clients.both.post("/v1/jobs", json={"model": "qwen2.5-vl", "max_tflops": 800, "trials": 7})
    assert made.status_code == 201, made.text
    job = made.json()
    assert (job["state"], job["total"], job["trials"], job["submitted_by"]) == ("queued", 7, 0, "both")
    assert [j["id"] for j in clients.reads.get("/v1/jobs").json()] == [job["id"]]
    assert clients.reads.get(f"/v1/jobs/{job['id']}").json() == job
    assert store.jobs()[0].spec == {"model": "qwen2.5-vl", "max_tflops": 800.0, "trials": 7}
    stopped = clients.submits.post(f"/v1/jobs/{job['id']}/stop")
    assert stopped.json()["state"] == "stopped"
    assert clients.reads.get("/v1/jobs/99").status_code == 404


def test_events_say_every_change_until_the_end(clients: Clients, store: Store) -> None:
    job = store.add_job({"model": "qwen2.5-vl"})
    store.start_job(job.id, "done")
    store.end_job(job.id, "finished")
    answer = clients.reads.get(f"/v1/jobs/{job.id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    event, data, rest = answer.text.split("\n", 2)
    assert event == "event: status" and rest == "\n"
    assert json.loads(data.removeprefix("data: "))["trials"] == 4


def test_the_front_and_its_policies(clients: Clients, store: Store) -> None:
    front = clients.reads.get("/v1/studies/done/front").json()
    assert front and {"trial", "policy", "reference", "metrics"} <= front[0].keys()
    cheapest = min(
        front, key=lambda m: next(x["value"] for x in m["metrics"] if x["name"] == "tflops_literature")
    )
    limit = next(x["value"] for x in cheapest["metrics"] if x["name"] == "tflops_literature")
    within = clients.reads.get("/v1/studies/done/front", params={"max_tflops": limit}).json()
    assert [m["trial"] for m in within] == [cheapest["trial"]]
    document = clients.reads.get("/v1/studies/done/policy", params={"trial": cheapest["trial"]}).json()
    assert load_policy(document).id == load_policy(cheapest["policy"]).id
    assert clients.reads.get("/v1/studies/other/front").status_code == 404
    assert clients.reads.get("/v1/studies/done/policy", params={"trial": 12345}).status_code == 422
    assert [s["name"] for s in clients.reads.get("/v1/studies").json()] == ["done"]


def test_mistakes_are_explained_as_on_the_command_line(clients: Clients) -> None:
    for body, words in (
        ({"model": "qwen2.5-vl", "reducers": ["fasv"]}, "Did you mean 'fastv'"),
        ({"model": "qwen2.5-vl", "trails": 5}, "trails"),
        ({"model": "qwen2.5-vl", "constraints": ["kv_gib"]}, "kv_gib"),
        ({"model": "qwen2.5-vl", "trials": 0}, "trials"),
        ({"max_tflops": 1}, "model"),
        ([], "body"),
    ):
        answer = clients.both.post("/v1/jobs", json=body)
        assert answer.status_code == 422 and words in answer.json()["error"], answer.text
    assert clients.both.get("/v1/jobs").json() == []


def test_its_health_needs_no_token_and_its_description_does(clients: Clients) -> None:
    assert clients.nobody.get("/healthz").json() == {"status": "ok"}
    assert clients.nobody.get("/openapi.json").status_code == 401
    described = clients.reads.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/healthz",
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/stop",
        "/v1/jobs/{job_id}/events",
        "/v1/studies",
        "/v1/studies/{study}/front",
        "/v1/studies/{study}/policy",
    }


def test_beyond_this_machine_only_with_a_token(store: Store) -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        refuse_open_doors(store, host)
    for host in ("0.0.0.0", "::", "192.168.1.4", "autotc.example"):
        with pytest.raises(SpecError, match="autotc token create"):
            refuse_open_doors(store, host)
    tokens.create(store, "one", ["read"])
    refuse_open_doors(store, "0.0.0.0")
    store.revoke_token("one")
    with pytest.raises(SpecError, match="holds no token"):
        refuse_open_doors(store, "0.0.0.0")
