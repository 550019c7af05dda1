"""The HTTP side of a served model: `/predict`, `/health` and `/docs`."""

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from trilab import __version__
from trilab.errors import nearest
from trilab.serving.contract import BadInput
from trilab.serving.package import Served
from trilab.serving.rows import Rows


class Health(BaseModel):
    """That the server answers, and what with."""

    status: str = Field(description="ok")
    run_id: str
    experiment: str
    model: str
    data: str
    device: str


class Refusal(BaseModel):
    """Why a request cannot be answered."""

    detail: str = Field(description="one sentence: which value is wrong, and what is allowed")


def make_app(served: Served, max_rows: int) -> FastAPI:
    """The application of one model.

    Args:
        served: the model.
        max_rows: of one request.
    """
    origin, contract = served.origin, served.contract
    app = FastAPI(
        title=f"{origin.model} on {origin.data}",
        version=__version__,
        description=f"Experiment {origin.experiment}, MLflow run {origin.run_id}. A request holds one row or many.",
    )
    names = [column.name for column in contract.columns] if isinstance(contract, Rows) else []

    def predict(body: Any) -> JSONResponse:
        return JSONResponse({name: values.tolist() for name, values in served.compute(contract.inputs(body)).items()})

    # The schema is of this model, so that it is known only now.
    predict.__annotations__["body"] = contract.request(max_rows)
    app.post("/predict", response_model=contract.response(), responses={422: {"model": Refusal}})(predict)

    @app.get("/health")
    def health() -> Health:
        return Health(
            status="ok",
            run_id=origin.run_id,
            experiment=origin.experiment,
            model=origin.model,
            data=origin.data,
            device=served.device,
        )

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": sentence(error, names)}, status_code=422)

    @app.exception_handler(BadInput)
    async def refuse_value(request: Request, error: BadInput) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    return app


def sentence(error: RequestValidationError, columns: list[str]) -> str:
    """The first thing that is wrong with a request, in one line.

    Args:
        error: pydantic's.
        columns: that a row has; empty where the model takes no rows.
    """
    first = _foremost(list(error.errors()))
    kind, place = first["type"], list(first["loc"])[1:]  # without `body`
    if kind == "json_invalid":
        return "the request is no valid JSON."
    if kind == "missing" and not place:
        return "the request has no body: send JSON."
    where = _path(place)
    if kind == "extra_forbidden":
        known = columns if len(place) > 1 else []
        hint = nearest(str(place[-1]), known) if known else ""
        return f"{where}: {'no such column' if len(place) > 1 else 'no such key'}.{hint}"
    if kind == "missing":
        return f"{where}: not given{', and null means a missing value' if columns and len(place) > 1 else ''}."
    given = first.get("input")
    shown = f" Given: {given}." if isinstance(given, str | int | float) and len(str(given)) < 50 else ""
    if isinstance(given, float) and not math.isfinite(given):
        return f"{where}: expected a finite number. Given: {given}."
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}.{shown}"


def _foremost(errors: list[dict[str, Any]]) -> dict[str, Any]:
    # A mistyped column is missing under its right name too: the typing error says more.
    return next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])


def _path(place: list[Any]) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the request"
