"""Scores over HTTP: the champion's, of leads sent as JSON or CSV, the same to the bit as the graph's.

What lives here: the application (FastAPI), what it takes and refuses, and following the champion. What does not:
scoring (`steps/scoring/at_once.py`) and what a cell means (`steps/leads/reading.py`).

No lead is logged or kept. A newly promoted champion is loaded beside the one in use, which answers until it is ready; a
request is answered by one of them from its start to its end.
"""

import csv
import io
import json
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version as installed
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException as StarletteException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from junk_leads.errors import JunkLeadsError, NoChampion
from junk_leads.home import Home
from junk_leads.reference import lead_schema
from junk_leads.steps.leads.reading import RecordReader
from junk_leads.steps.pages.drop_report import page_of
from junk_leads.steps.scoring.at_once import AtOnce
from junk_leads.stores.registry import Registry

LOGGER = logging.getLogger("junk_leads.serve")
TOKEN_VARIABLE = "JUNK_LEADS_TOKEN"
LOOK_SECONDS = 2.0  # between two looks for a new champion
MOST_LEADS = 10_000  # of a request
MOST_BYTES = 20_000_000
SCHEMA = lead_schema()
REQUIRED, KNOWN = SCHEMA.needed, set(SCHEMA.names)


@dataclass
class Champion:
    """The champion in use, which follows the registry."""

    registry: Registry
    scorer: AtOnce | None = None
    problem: str = "no model is loaded yet"
    _stop: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Take the version that is in Production now, unless it is in use already."""
        try:
            version = self.registry.champion_version()
            if self.scorer is None or self.scorer.model.version != version:
                scorer = AtOnce(self.registry.load(version))
                scorer.score([_WARMING])
                self.scorer = scorer
                LOGGER.info("version %s is in use", version)
            self.problem = ""
        except NoChampion as error:
            self.scorer, self.problem = None, str(error)
        except JunkLeadsError as error:  # the one in use goes on
            self.problem = str(error)

    def follow(self) -> None:
        """Look now and then, until told to stop."""
        while not self._stop.wait(LOOK_SECONDS):
            self.look()

    def stop(self) -> None:
        """End following."""
        self._stop.set()

    def in_use(self) -> AtOnce:
        """The scorer in use; raises HTTPException (503) when there is none."""
        if self.scorer is None:
            raise HTTPException(503, self.problem)
        return self.scorer


_WARMING = {"city_mapped": "x", "first_platform_c": "x", "first_utm_medium_c": "x", "first_utm_source_c": "x"}
_CELL = {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]}
_LEAD = {
    "type": "object",
    "required": list(REQUIRED),
    "properties": {c.name: _CELL for c in SCHEMA.columns if c.role != "label"},
    "description": f"created_date as {SCHEMA.date_format}; interactions that are left out count as none.",
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["leads"],
                    "properties": {"leads": {"type": "array", "maxItems": MOST_LEADS, "items": _LEAD}},
                }
            },
            "text/csv": {"schema": {"type": "string", "description": "A header with the same columns, then leads."}},
        },
    }
}


def application(home: Home, *, hosts: Sequence[str] = (), token: str = "") -> FastAPI:
    """The service of a home; `hosts` are the names it answers to (any when empty), `token` what bearers must show."""
    champion = Champion(Registry(home))

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(champion.look)
        thread = threading.Thread(target=champion.follow, daemon=True)
        thread.start()
        yield
        champion.stop()

    def shown(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if token and not secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "a bearer token is needed: Authorization: Bearer TOKEN")

    app = FastAPI(
        title="junk_leads",
        version=installed("junk-leads"),
        description="Tells junk leads from genuine ones: probability, flag, score, grade and reasons.",
        lifespan=living,
        docs_url=None,  # FastAPI's own pages ask the network for what they show
        redoc_url=None,
    )
    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)

    @app.exception_handler(StarletteException)
    async def told(request: Request, error: StarletteException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)

    @app.post("/score", openapi_extra=_BODY, dependencies=[Depends(shown)])
    async def score(request: Request) -> JSONResponse:
        """Score leads: one prediction for each, in their order, by the model in production."""
        body = await _body_of(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        return JSONResponse(await run_in_threadpool(_scored, champion.in_use(), body, kind))

    @app.get("/docs", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        """The page of the service."""
        return HTMLResponse(_page(str(request.base_url), has_token=bool(token)))

    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether leads can be scored; 503 when not."""
        scorer = champion.in_use()
        problem = {"problem": champion.problem} if champion.problem else {}
        return JSONResponse({"status": "ok", "model_version": scorer.model.version, **problem})

    @app.get("/version")
    async def version() -> JSONResponse:
        """The program's version, the model's, and the encoder's id."""
        model = champion.in_use().model
        told_of = {"program": installed("junk-leads"), "model_version": model.version, "encoder_id": model.encoder.id}
        return JSONResponse(told_of)

    return app


def _page(url: str, *, has_token: bool) -> str:
    """What the service takes and answers, for people; it asks the network for nothing."""
    what = {
        "date": f"text, as {SCHEMA.date_format}",
        "city": "text or null",
        "level": "text or null",
        "count": "a whole number, as number or text, or null",
    }
    example = dict.fromkeys(REQUIRED) | {"created_date": "2021-07-01 09:30:00", "city_mapped": "pune"}
    answer = {"probability": 0.61, "predicted_flag": 1, "score": 61, "grade": "B", "reasons": "for: … | against: …"}
    return page_of(
        "score_service.html",
        url=url,
        token=has_token,
        most_leads=MOST_LEADS,
        most_bytes=MOST_BYTES,
        example=json.dumps({"leads": [example]}, indent=1),
        answer=json.dumps({"model_version": "1", "predictions": [answer]}, indent=1, ensure_ascii=False),
        columns=[(c.name, what[c.role]) for c in SCHEMA.columns if c.name in REQUIRED],
        interactions=SCHEMA.with_role("interaction"),
    )


async def _body_of(request: Request) -> bytes:
    """The body, read no further than is allowed."""
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MOST_BYTES:
            raise HTTPException(413, f"the body is larger than {MOST_BYTES:,} bytes; send fewer leads at once")
        pieces.append(piece)
    return b"".join(pieces)


def _scored(scorer: AtOnce, body: bytes, kind: str) -> dict[str, Any]:
    """The answer to a request; raises HTTPException naming what is wrong."""
    if kind == "application/json":
        records = _from_json(body)
    elif kind == "text/csv":
        records = list(_from_csv(body))
    else:
        raise HTTPException(415, f"the content type is {kind[:80]!r}; send application/json or text/csv")
    if len(records) > MOST_LEADS:
        raise HTTPException(413, f"{len(records):,} leads are too many at once; send {MOST_LEADS:,} at most")
    reader, leads, unknown = RecordReader(SCHEMA), [], set()
    for number, record in enumerate(records, 1):
        missing = [name for name in REQUIRED if name not in record]
        if missing:
            raise HTTPException(422, f"lead {number} lacks {', '.join(missing)}; give null for what is not known")
        unknown |= record.keys() - KNOWN
        try:
            leads.append(reader.read(record))
        except ValueError as error:
            raise HTTPException(422, f"lead {number}: {error}") from error
    told: dict[str, Any] = {"model_version": scorer.model.version, "predictions": scorer.score(leads)}
    return {**told, "ignored_columns": sorted(str(name)[:100] for name in unknown)} if unknown else told


def _from_json(body: bytes) -> list[Mapping[str, Any]]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    try:
        content = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON ({str(error)[:100]})") from error
    leads = content.get("leads") if isinstance(content, dict) else None
    if not isinstance(leads, list):
        raise HTTPException(422, 'the body holds no list of leads; send {"leads": [{column: value, ...}, ...]}')
    for number, lead in enumerate(leads, 1):
        if not isinstance(lead, dict):
            raise HTTPException(422, f"lead {number} is no object of columns and values")
    return leads


def _from_csv(body: bytes) -> Iterator[Mapping[str, Any]]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise HTTPException(400, "the body is no UTF-8 text; save the CSV as UTF-8") from error
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip() for name in next(rows, [])]
        if len(set(header)) < len(header):
            raise HTTPException(422, "a column is in the header twice; send each once")
        missing = [name for name in REQUIRED if name not in header]
        if missing:
            raise HTTPException(422, f"the header lacks {', '.join(missing)}; send every column that a lead needs")
        for number, row in enumerate(rows, 1):
            if not row:
                continue
            if len(row) != len(header):
                raise HTTPException(422, f"lead {number} has {len(row)} fields, the header has {len(header)}")
            yield dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise HTTPException(400, f"the body is no CSV ({str(error)[:100]})") from error
