"""The HTTP interface over the store: submit, list, status, stop, fronts, policies, events."""

# no `from __future__ import annotations`: FastAPI reads the annotations of functions inside a function

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Body, Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException as AnyHTTPException

from autotc import __version__
from autotc.constraints import BEST, Best
from autotc.errors import AutotcError, StoreError
from autotc.search.spec import SearchSpec
from autotc.service import queue, tokens
from autotc.service.fronts import Fronts
from autotc.service.guard import Guard
from autotc.service.roots import Roots
from autotc.service.status import status, statuses
from autotc.store import JobRow, Store, TokenRow
from autotc.store.jobs import ENDS

EVERY_S = 1.0
MOST_STREAMS = 32
LOG = logging.getLogger("autotc.service")

JobId = Annotated[int, Path(ge=1, le=2**31 - 1)]
StudyName = Annotated[str, Path(max_length=200)]
Limit = Annotated[float | None, Query(gt=0, allow_inf_nan=False)]
Convention = Annotated[Literal["literature", "exact"] | None, Query()]
Trial = Annotated[int | None, Query(ge=0, le=2**31 - 1)]
T = TypeVar("T")


class Refusal(BaseModel):
    """What an answer says that is no 2xx: why, and under which id it stands in the service's log."""

    error: str
    request: str


REFUSALS: dict[int | str, str] = {
    400: "Not a request that could be read",
    401: "No token, or a wrong one",
    403: "A token without the scope, or a Host or Origin that is not allowed",
    404: "There is no such thing",
    413: "The body is too large",
    422: "A value that cannot be used",
    503: "The database does not answer, or there are too many streams",
}


def make_app(store: Store, roots: Roots, hosts: tuple[str, ...] = ()) -> Guard:
    """Return the ASGI application.

    Args:
        store: the database.
        roots: folders that searches may name.
        hosts: names under which it may be reached, besides those of this machine itself.
    """
    app = FastAPI(
        title="autotc",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses={code: {"model": Refusal, "description": why} for code, why in REFUSALS.items()},
    )
    bearer = HTTPBearer(auto_error=False, description="A token of `autotc token create`.")
    streams, fronts = asyncio.Semaphore(MOST_STREAMS), Fronts(store)

    def holder(scope: str) -> Callable[..., TokenRow]:
        def check(
            request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
        ) -> TokenRow:
            token = None if given is None else store.token(tokens.digest(given.credentials))
            if token is None:
                raise HTTPException(
                    401, "a bearer token is needed; see: autotc token create", {"WWW-Authenticate": "Bearer"}
                )
            request.state.token = token.name
            if scope not in token.scopes:
                raise HTTPException(403, f"token {token.name} has not got the scope {scope!r}")
            return token

        return check

    Reads = Annotated[TokenRow, Depends(holder("read"))]
    Submits = Annotated[TokenRow, Depends(holder("submit"))]

    def job_of(job_id: int) -> JobRow:
        job = store.job(job_id)
        if job is None:
            raise HTTPException(404, f"there is no job {job_id}")
        return job

    def known(found: T | None) -> T:
        if found is None:
            raise HTTPException(404, "there is no study of that name")
        return found

    @app.get("/healthz")
    def health() -> dict[str, str]:
        """Whether the service and its database answer."""
        try:
            store.exists()
            store.jobs(limit=1)
        except StoreError:
            raise HTTPException(503, "the database does not answer") from None
        return {"status": "ok"}

    @app.get("/openapi.json", include_in_schema=False)
    def description(token: Reads) -> dict[str, Any]:
        return app.openapi()

    @app.post("/v1/jobs", status_code=201)
    def submit(token: Submits, spec: Annotated[SearchSpec, Body()]) -> dict[str, Any]:
        """Queue a search."""
        return status(store, queue.submit_over_http(store, spec, roots, token.name)).as_dict()

    # answers that are JSON already are not checked once more, which would take longer than all the rest
    @app.get("/v1/jobs", response_model=list[dict[str, Any]])
    def list_jobs(token: Reads, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> JSONResponse:
        """The latest jobs, in the order they were submitted."""
        return JSONResponse([s.as_dict() for s in statuses(store, limit)])

    @app.get("/v1/jobs/{job_id}", response_model=dict[str, Any])
    def show_job(token: Reads, job_id: JobId) -> JSONResponse:
        """How far a job is."""
        return JSONResponse(status(store, job_of(job_id)).as_dict())

    @app.post("/v1/jobs/{job_id}/stop")
    def stop_job(token: Submits, job_id: JobId) -> dict[str, Any]:
        """Stop a job: its workers finish what they have in hand; what was found stays."""
        job_of(job_id)
        return status(store, store.stop_job(job_id)).as_dict()

    @app.get("/v1/jobs/{job_id}/events", responses={200: {"content": {"text/event-stream": {}}}})
    async def follow_job(token: Reads, job_id: JobId, request: Request) -> StreamingResponse:
        """Server-sent events: the state of a job whenever it changes, until it has ended."""
        await run_in_threadpool(job_of, job_id)
        if streams.locked():
            raise HTTPException(503, f"at most {MOST_STREAMS} streams at a time", {"Retry-After": "10"})

        async def events() -> AsyncIterator[str]:
            async with streams:
                last = None
                while not await request.is_disconnected():
                    now = await run_in_threadpool(lambda: status(store, job_of(job_id)).as_dict())
                    if now != last:
                        yield f"event: status\ndata: {json.dumps(now)}\n\n"
                        last = now
                    if now["state"] in ENDS:
                        return
                    await asyncio.sleep(EVERY_S)

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/v1/studies", response_model=list[dict[str, Any]])
    def list_studies(token: Reads) -> JSONResponse:
        """All studies with the number of their trials by state."""
        shown = ("name", "state", "evaluated_on", "created", "counts")
        rows = [row.as_dict() for row in store.studies()]
        return JSONResponse([{k: row[k] for k in shown} for row in rows])

    @app.get("/v1/studies/{study}/front", response_model=list[dict[str, Any]])
    def front(
        token: Reads,
        study: StudyName,
        max_tflops: Limit = None,
        flops_convention: Convention = None,
        with_references: bool = False,
    ) -> Response:
        """The Pareto front of a study within a limit, as `autotc front --json` prints it; nothing is run."""
        document = known(fronts.document(study, max_tflops, flops_convention, with_references))
        return Response(document, media_type="application/json")

    @app.get("/v1/studies/{study}/policy")
    def export(
        token: Reads,
        study: StudyName,
        best: Best = BEST,
        trial: Trial = None,
        max_tflops: Limit = None,
    ) -> Response:
        """One policy of a study as a document, as `autotc export` writes it."""
        document, _ = known(fronts.view(study, max_tflops)).policy(best, trial)
        return Response(document.json_text(), media_type="application/json")

    @app.exception_handler(AutotcError)
    def explained(request: Request, error: AutotcError) -> JSONResponse:
        if isinstance(error, StoreError):  # its text names hosts and files
            LOG.error(json.dumps({"request": request.state.request_id, "error": str(error)}))
            return _error(request, 503, "the database does not answer")
        return _error(request, 422, str(error))

    @app.exception_handler(AnyHTTPException)
    def refused(request: Request, error: AnyHTTPException) -> JSONResponse:
        return _error(request, error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [f"{'.'.join(map(str, e['loc']))[:100]}: {e['msg'][:200]}" for e in error.errors()[:5]]
        return _error(request, 422, "; ".join(found))

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> JSONResponse:
        LOG.error(
            json.dumps({"request": request.state.request_id, "error": f"{type(error).__name__}: {error}"})
        )
        return _error(request, 500, "an error of the service; its log has it under the request's id")

    return Guard(app, hosts)


def _error(request: Request, code: int, why: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": why, "request": request.state.request_id}, code, headers)
