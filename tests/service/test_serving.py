"""The HTTP service: right answers, plain refusals, limits, and an end that leaves nobody waiting."""

import asyncio
import contextlib
import io
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import cv2
import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from paddleseg_psp.bundle import export_bundle, load_predictor
from paddleseg_psp.models import PSANet
from paddleseg_psp.service.app import Limits, create_app
from paddleseg_psp.visual import color_map, overlay
from tests.helpers import ROOT, TinyBackbone, run_python
from tests.raw_http import answer, server

PALETTE = [(10 * index, 200, 30) for index in range(6)]
NAMES = ["sky", "road", "tree", "house", "car", "straße"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    model = PSANet(6, TinyBackbone(), mid_channels=8, head_channels=16, crop_size=(64, 96))
    export_bundle(model, str(folder), [{"type": "Normalize"}], palette=PALETTE, class_names=NAMES, onnx=True)
    return folder


@pytest.fixture(scope="module")
def predictor(bundle):
    return load_predictor(str(bundle), "onnxruntime")


def scene(height=60, width=80, seed=0):
    noise = np.random.RandomState(seed).randint(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def ids_of(answer):
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_answers_are_the_predictors(predictor):
    image = scene(61, 83)
    (expected,) = predictor.predict([image])
    assert len(np.unique(expected)) > 1
    with TestClient(create_app(predictor)) as client:
        answers = {
            kind: client.post(f"/predict?output={kind}", content=png(image)) for kind in ("ids", "color", "overlay", "json")
        }
    assert all(answer.status_code == 200 for answer in answers.values())
    np.testing.assert_array_equal(ids_of(answers["ids"]), expected)
    np.testing.assert_array_equal(ids_of(answers["color"]), expected)
    shown = Image.open(io.BytesIO(answers["color"].content)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(shown), np.array(PALETTE, np.uint8)[expected])
    np.testing.assert_array_equal(ids_of(answers["overlay"])[..., ::-1], overlay(image, expected, color_map(PALETTE)))
    told = answers["json"].json()
    assert (told["height"], told["width"]) == (61, 83)
    for item in told["classes"]:
        assert item["name"] == NAMES[item["index"]] and item["color"] == list(PALETTE[item["index"]])
        assert item["share"] == pytest.approx((expected == item["index"]).mean())


@pytest.mark.parametrize(
    "content, query, status, words",
    [
        (b"", "", 400, "the body is empty|body is empty"),
        (b"what is this?", "", 415, "JPEG, PNG"),
        (png(scene())[:500], "", 422, "damaged"),
        (png(scene(101, 100)), "", 413, "100x101 pixels; at most 10000"),
        (b"\0" * 50001, "", 413, "more than 50000 bytes"),
        (png(scene()), "?output=nothing", 422, "'color', 'ids', 'overlay' or 'json'"),
    ],
)
def test_refusals_say_why(predictor, content, query, status, words):
    limits = Limits(max_bytes=50000, max_pixels=10000)
    with TestClient(create_app(predictor, limits)) as client:
        answer = client.post(f"/predict{query}", content=content)
        chunks = client.post(f"/predict{query}", content=(content[at : at + 999] for at in range(0, len(content), 999)))
    for item in (answer, chunks):  # with and without a length told before
        assert item.status_code == status and re.search(words, item.text), item.text


def test_networks_of_one_size_refuse_others(bundle, tmp_path):
    model = PSANet(6, TinyBackbone(), mid_channels=8, head_channels=16, crop_size=(64, 96))
    export_bundle(model, str(tmp_path), [{"type": "Normalize"}], (1, 3, 64, 96))
    with TestClient(create_app(load_predictor(str(tmp_path)))) as client:
        assert client.post("/predict", content=png(scene(64, 96))).status_code == 200
        answer = client.post("/predict", content=png(scene(60, 80)))
    assert answer.status_code == 422 and "takes images of 96x64 pixels" in answer.text


def test_health_metrics_and_description(predictor):
    with TestClient(create_app(predictor)) as client:
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        client.post("/predict", content=png(scene()))
        client.post("/predict", content=b"no image")
        metrics = client.get("/metrics").text
        assert 'requests_total{status="200"} 1.0' in metrics and 'requests_total{status="415"} 1.0' in metrics
        assert "batch_size_count 1.0" in metrics and "active_requests 0.0" in metrics
        assert "image/*" in client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
        assert client.get("/docs").status_code == 200 and "<title>Scene parsing" in client.get("/").text


class Stuck:
    """A predictor whose network waits."""

    def __init__(self, predictor):
        self._predictor, self.go = predictor, threading.Event()

    def __getattr__(self, name):
        return getattr(self._predictor, name)

    def look(self, batch):
        self.go.wait(20)
        return self._predictor.look(batch)


def in_service(app, work):
    """Runs a coroutine function of a client while an application runs."""

    async def session():
        async with app.router.lifespan_context(app):
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here", timeout=30) as client:
                return await work(client)

    return asyncio.run(session())


def test_more_requests_than_wanted_get_503(predictor):
    stuck = Stuck(predictor)

    async def work(client):
        waiting = [asyncio.create_task(client.post("/predict", content=png(scene()))) for _ in range(3)]
        await asyncio.sleep(0.5)
        refused, ready = await client.post("/predict", content=png(scene())), await client.get("/ready")
        stuck.go.set()
        return [answer.status_code for answer in await asyncio.gather(*waiting)], refused, ready

    answered, refused, ready = in_service(create_app(stuck, Limits(max_requests=3)), work)
    assert answered == [200] * 3
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1" and ready.status_code == 503


def test_what_takes_too_long_gets_504_and_the_next_one_its_answer(predictor):
    stuck = Stuck(predictor)

    async def work(client):
        late = await client.post("/predict", content=png(scene()))
        stuck.go.set()
        return late, await client.post("/predict", content=png(scene()))

    late, answered = in_service(create_app(stuck, Limits(timeout=0.5)), work)
    assert late.status_code == 504 and "longer than 0.5 s" in late.text and answered.status_code == 200


def test_a_slow_sender_gets_504(predictor):
    async def slowly():
        for byte in png(scene()):
            yield bytes([byte])
            await asyncio.sleep(0.1)

    async def work(client):
        return await client.post("/predict", content=slowly())

    assert in_service(create_app(predictor, Limits(timeout=0.5)), work).status_code == 504


HEAD = b"POST /predict?output=ids HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


def ask(connect, content):
    """Returns the status of an answer, and all of it."""
    told = answer(connect(HEAD % len(content) + content))
    return int(told.split(b" ", 2)[1]), told


def metrics(connect):
    return answer(connect(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).decode()


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_request_takes_a_slot_when_all_of_it_is_there(predictor):
    with server(create_app(predictor, Limits(max_requests=1)), connections=100) as (connect, _):
        slow = [connect(HEAD % 9 + b"a") for _ in range(20)]
        assert ask(connect, png(scene()))[0] == 200
        assert "active_requests 0.0" in metrics(connect)
        for client in slow:
            client.close()
        wait_until(lambda: 'requests_total{status="left"} 20.0' in metrics(connect))


def test_files_on_their_way_are_bounded_together(predictor):
    content = png(scene())
    with server(create_app(predictor, Limits(max_held=4 * len(content))), connections=100) as (connect, _):
        slow = [connect(HEAD % (2 * len(content)) + content) for _ in range(4)]
        time.sleep(0.3)
        status, told = ask(connect, content)
        assert status == 503 and b"retry-after" in told.lower()
        for client in slow:
            client.close()
        wait_until(lambda: ask(connect, content)[0] == 200)


def test_what_nobody_waits_for_any_more_is_not_run(predictor):
    stuck, sizes = Stuck(predictor), []
    look = stuck.look
    stuck.look = lambda batch: (sizes.append(batch.shape[2:]), look(batch))[1]
    with server(create_app(stuck, Limits(max_batch=1)), connections=100) as (connect, _):
        clients = []
        for size in ((40, 50), (41, 50), (42, 50)):
            content = png(scene(*size))
            clients.append(connect(HEAD % len(content) + content))
            wait_until(lambda: f"active_requests {len(clients)}.0" in metrics(connect))
        wait_until(lambda: sizes)
        clients[1].close()
        wait_until(lambda: 'requests_total{status="left"} 1.0' in metrics(connect))
        stuck.go.set()
        assert answer(clients[0]).startswith(b"HTTP/1.1 200") and answer(clients[2]).startswith(b"HTTP/1.1 200")
    assert sizes == [(40, 50), (42, 50)]


class Failing(Stuck):
    def __init__(self, predictor, method, error):
        super().__init__(predictor)
        self._method, self._error = method, error

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "__dict__").get("_method"):
            raise_ = self._error

            def fail(*_):
                raise raise_

            return fail
        return super().__getattribute__(name)


@pytest.mark.parametrize("method", ["look", "prepare", "classes"])
@pytest.mark.parametrize("error, status", [(RuntimeError("in /srv/secret:\n2"), 500), (MemoryError("in /srv/secret:\n2"), 503)])
def test_failures_are_counted_and_logged_in_a_line(predictor, capsys, method, error, status):
    with TestClient(create_app(Failing(predictor, method, error))) as client:
        told = client.post("/predict", content=png(scene()))
        assert told.status_code == status and "secret" not in told.text
        assert f'requests_total{{status="{status}"}} 1.0' in client.get("/metrics").text
        assert client.get("/ready").status_code == 200
    logged = capsys.readouterr().out.splitlines()
    assert len(logged) == 1 and "in /srv/secret: 2" in logged[0]


@contextlib.contextmanager
def service(bundle, log, **options):
    """Yields the address of a real service, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(log, "w") as stream:
        command = [sys.executable, "deploy/serving/serve.py", f"--config={bundle}/deploy.yaml", f"--port={port}"]
        command.append("--backend=onnxruntime")
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, **options)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                if httpx.get(f"{address}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield address, process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def served(bundle, tmp_path):
    with service(bundle, tmp_path / "log") as both:
        yield both


def test_more_connections_than_files(bundle, tmp_path):
    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    with service(bundle, tmp_path / "log", preexec_fn=few_files) as (address, _):
        place, idle = httpx.URL(address), []
        for _ in range(600):
            idle.append(socket.create_connection((place.host, place.port)))
            idle[-1].sendall(b"POST /predict HT")
        for _ in range(3):
            assert httpx.post(f"{address}/predict", content=png(scene()), timeout=60).status_code == 200
    assert "Images may have" in (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_stranger_s_page_cannot_use_it(served):
    address, _ = served
    content = png(scene())
    for headers, status in (({}, 200), ({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403)):
        assert httpx.post(f"{address}/predict", content=content, headers=headers, timeout=60).status_code == status


def memory(process):
    """Returns the megabytes that a process holds."""
    with open(f"/proc/{process.pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024


def test_two_hundred_at_once_good_and_bad(served, predictor):
    """Each good one gets its own right answer, five times over, and memory does not grow."""
    address, process = served
    images = [scene(40 + 7 * (index % 4), 60 + 5 * (index % 3), index) for index in range(40)]
    good = [(png(image), expected) for image, expected in zip(images, predictor.predict(images))]
    bad = [(b"", 400), (b"no image", 415), (good[0][0][:700], 422), (png(np.zeros((3000, 3000), np.uint8)), 413)]

    async def one(client, number):
        if number % 4 == 3:
            content, status = bad[number // 4 % len(bad)]
            assert (await client.post("/predict", content=content)).status_code == status
            return 0
        content, expected = good[number % len(good)]
        answer = await client.post("/predict?output=ids", content=content)
        assert answer.status_code == 200, answer.text
        return np.mean(ids_of(answer) == expected) > 0.9999

    async def flood():
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
            return sum(await asyncio.gather(*[one(client, number) for number in range(200)]))

    held = []
    for _ in range(5):
        assert asyncio.run(flood()) == 150
        held.append(memory(process))
    assert held[-1] - held[1] < 50, held
    assert process.poll() is None


def test_an_end_that_leaves_nobody_waiting(served):
    address, process = served
    answers = []

    def ask(index):
        answers.append(httpx.post(f"{address}/predict", content=png(scene(800, 900, index)), timeout=60).status_code)

    def come():
        """Returns how many requests are there, answered or not."""
        metrics = httpx.get(f"{address}/metrics", timeout=60).text
        return sum(map(float, re.findall(r"^(?:active_requests|requests_total{.*}) ([\d.]+)$", metrics, re.MULTILINE)))

    askers = [threading.Thread(target=ask, args=(index,)) for index in range(20)]
    for asker in askers:
        asker.start()
    end = time.monotonic() + 60
    while come() < 20:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    for asker in askers:
        asker.join(60)
    assert answers == [200] * 20


@pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs Chromium and its driver (chromium-driver)")
def test_page_in_a_browser(served, tmp_path):
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService
    from selenium.webdriver.common.by import By

    options = ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile"):
        options.add_argument(argument)
    (tmp_path / "scene.png").write_bytes(png(scene()))
    (tmp_path / "text.png").write_text("no image")
    browser = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))

    def status():
        for _ in range(200):
            text = browser.find_element(By.ID, "status").text
            if text and text != "Working…":
                return text
            time.sleep(0.05)

    try:
        browser.get(served[0])
        browser.find_element(By.ID, "file").send_keys(str(tmp_path / "scene.png"))
        assert "80×60" in status()
        pictures = browser.find_elements(By.CSS_SELECTOR, "#pictures img")
        sizes = [
            browser.execute_script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", item) for item in pictures
        ]
        assert sizes == [[80, 60], [80, 60]]
        assert "%" in browser.find_element(By.ID, "classes").text
        browser.find_element(By.ID, "file").send_keys(str(tmp_path / "text.png"))
        time.sleep(0.5)
        assert "Refused: this is no image" in status()
        browser.save_screenshot(str(tmp_path / "page.png"))
    finally:
        browser.quit()


@pytest.mark.parametrize("flags, words", [(["--max_batch=0"], "--max_batch must be above 0"), ([], "cannot be read")])
def test_wrong_arguments(tmp_path, flags, words):
    process = run_python(["deploy/serving/serve.py", f"--config={tmp_path}/deploy.yaml", *flags])
    assert process.returncode == 1 and words in process.stderr.splitlines()[-1]


def test_without_its_packages_it_names_them(tmp_path):
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError(\"No module named 'fastapi'\", name='fastapi')")
    process = run_python(["deploy/serving/serve.py", "--help"], env={"PYTHONPATH": str(tmp_path)})
    assert process.returncode == 1 and process.stderr.splitlines() == [
        "Error: the service needs fastapi: pip install 'paddleseg-psp[serving]', or in the repository pip install -r "
        "deploy/serving/requirements.txt"
    ]
