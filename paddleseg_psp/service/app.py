"""The HTTP service: an image in, its class map out."""

from __future__ import annotations

import asyncio
import io
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect

from paddleseg_psp.bundle.predictor import Predictor
from paddleseg_psp.log import logger
from paddleseg_psp.service.admission import Budget, unless_client_leaves
from paddleseg_psp.service.batching import Batcher
from paddleseg_psp.service.decoding import decode_image
from paddleseg_psp.service.headers import FORMATS, RefusedImage, image_size
from paddleseg_psp.visual import color_map, overlay, save_classes, save_index_png, viewable

_PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.html")
_BODY = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}}


@dataclass
class Limits:
    """The limits of the service.

    Attributes:
        max_bytes (int): of an image's file.
        max_pixels (int): of an image, see `image_size`, and of those run together. Twice as many are decoded at once.
        max_requests (int): at once whose files are there; more get 503.
        max_held (int): bytes of all files that are there or on their way; more get 503.
        max_batch (int): images run together.
        max_wait (float): seconds that an image waits for others to run with.
        timeout (float): seconds until a request gets 504.
    """

    max_bytes: int = 16 * 2**20
    max_pixels: int = 2**23
    max_requests: int = 256
    max_held: int = 256 * 2**20
    max_batch: int = 8
    max_wait: float = 0.005
    timeout: float = 60.0


class _Metrics:
    def __init__(self, active):
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "requests for predictions", ["status"], registry=self.registry)
        self.seconds = Histogram("request_seconds", "from a request to its answer", registry=self.registry)
        waited_for = "connections ended because their clients were late, by what was waited for"
        self.dropped = Counter("connections_dropped", waited_for, ["waited_for"], registry=self.registry)
        sizes = (1, 2, 4, 8, 16, 32, 64)
        self.batches = Histogram("batch_size", "images run together", buckets=sizes, registry=self.registry)
        Gauge("active_requests", "requests at this moment", registry=self.registry).set_function(active)


def create_app(predictor: Predictor, limits: Limits | None = None, debug: bool = False) -> FastAPI:
    """Returns the service for a predictor whose images have one or three channels, as a FastAPI application.

    With debug, the log has the traceback of each failure. `app.state.dropped` counts connections that a server ends.
    """
    service = _Service(predictor, limits or Limits(), debug)

    @asynccontextmanager
    async def lifespan(_):
        service.start()
        yield
        await run_in_threadpool(service.batcher.close)

    app = FastAPI(title="Scene parsing", lifespan=lifespan)
    app.state.dropped = lambda waited_for: service.metrics.dropped.labels(waited_for).inc()

    @app.post("/predict", openapi_extra=_BODY, responses={200: {"content": {"image/png": {}, "application/json": {}}}})
    async def predict(request: Request, output: Literal["color", "ids", "overlay", "json"] = "color"):
        """The class map of an image, the request's body (JPEG, PNG, BMP, TIFF or WEBP).

        As a PNG: `color` has class indices as pixels and the classes' colors as palette, `ids` is gray, `overlay` mixes image
        and colors. `json` tells each class's share of the pixels.
        """
        return await service.answer(request, output)

    @app.get("/health")
    async def health():
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready():
        """Whether images would be taken now: 503 if not."""
        if service.is_ready():
            return {"status": "ready"}
        return JSONResponse({"status": "not ready"}, 503)

    @app.get("/metrics")
    async def metrics():
        """Figures for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page():
        with open(_PAGE, encoding="utf-8") as file:
            return file.read()

    return app


class _Service:
    def __init__(self, predictor, limits, debug):
        self.predictor, self.limits, self.debug = predictor, limits, debug
        self.channels, self.colors = predictor.input_shape[1], color_map(predictor.palette)
        self.active, self.held, self.batcher = 0, 0, None
        self.metrics = _Metrics(lambda: self.active)

    def start(self):
        limits, observe = self.limits, self.metrics.batches.observe
        self.batcher = Batcher(self.predictor.look, limits.max_batch, limits.max_wait, observe, limits.max_pixels)
        self.decoded_pixels = Budget(2 * limits.max_pixels)

    def is_ready(self):
        return self.batcher is not None and self.batcher.is_alive() and self.active < self.limits.max_requests

    async def answer(self, request, output):
        """Returns the response to a request, and counts it."""
        status = "left"  # also where the server ends
        with self.metrics.seconds.time():
            try:
                response = await self._answer_in_time(request, output)
                status = 200
                return response
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it
            except HTTPException as error:
                status = error.status_code
                raise
            except Exception as error:
                status = 503 if isinstance(error, MemoryError) else 500
                raise self._failure(error, status)
            finally:
                self.metrics.requests.labels(status).inc()

    def _failure(self, error, status):
        """Logs a failure; returns an answer without internal details."""
        words = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        logger.error(f"A request failed ({status}): {words}", exc_info=error if self.debug else None)
        detail = "this image failed; the service's log says why" if status == 500 else "too little memory; try again"
        return HTTPException(status, detail)

    async def _answer_in_time(self, request, output):
        try:
            return await asyncio.wait_for(self._received_and_answered(request, output), self.limits.timeout)
        except asyncio.TimeoutError:
            raise HTTPException(504, f"this took longer than {self.limits.timeout:g} s")
        except RefusedImage as refused:
            raise HTTPException(refused.status, str(refused))

    async def _received_and_answered(self, request, output):
        body = bytearray()
        try:
            await self._receive(request, body)
            if self.active >= self.limits.max_requests:
                raise _busy()
            self.active += 1
            try:
                return await unless_client_leaves(request, self._predict(body, output))
            finally:
                self.active -= 1
        finally:
            self.held -= len(body)

    async def _receive(self, request, body):
        """Fills a body, refused as soon as it is too long or too much is held."""
        limit = self.limits.max_bytes
        too_long = RefusedImage(413, f"the image has more than {limit} bytes")
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            raise too_long
        async for chunk in request.stream():
            body += chunk
            self.held += len(chunk)
            if len(body) > limit:
                raise too_long
            if self.held > self.limits.max_held:
                raise _busy()
        if not body:
            raise RefusedImage(400, f"the request's body is empty; send an image ({', '.join(FORMATS)}) as the body")

    async def _predict(self, body, output):
        width, height = await run_in_threadpool(image_size, body, self.limits.max_pixels)
        async with self.decoded_pixels.taken(width * height):
            image = await run_in_threadpool(
                decode_image, bytes(body), self.limits.max_pixels, self.channels, self.predictor.max_value
            )
            prepared, steps = await run_in_threadpool(self.predictor.prepare, image)
            if not self.predictor.fits(prepared.shape):
                fixed, least = self.predictor.input_shape, "at least " if self.predictor.views.window else ""
                raise RefusedImage(422, f"this network takes images of {least}{fixed[3]}x{fixed[2]} pixels")
            scores = await asyncio.wrap_future(self.batcher.submit(prepared))
            classes = await run_in_threadpool(self.predictor.classes, scores, steps)
            return await run_in_threadpool(self._encode, image, classes, output)

    def _encode(self, image, classes, output):
        if output == "json":
            return JSONResponse(self._shares(classes))
        file = io.BytesIO()
        if output == "ids":
            save_classes(file, classes)
        elif output == "color":
            save_index_png(file, classes, self.colors)
        else:
            mixed = overlay(viewable(image), classes, self.colors)
            Image.fromarray(np.ascontiguousarray(mixed[..., ::-1])).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    def _shares(self, classes):
        names = self.predictor.class_names or []
        found = [
            {
                "index": index,
                "name": names[index] if index < len(names) else str(index),
                "color": self.colors[index % len(self.colors)].tolist(),
                "share": count / classes.size,
            }
            for index, count in enumerate(np.bincount(classes.ravel()).tolist())
            if count
        ]
        found.sort(key=lambda item: -item["share"])
        return {"width": classes.shape[1], "height": classes.shape[0], "classes": found}


def _busy():
    return HTTPException(503, "too many requests at once; try again", headers={"Retry-After": "1"})
