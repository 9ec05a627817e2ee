"""How many requests does the HTTP service answer, how late, and does its memory grow?

python dev/benchmarks/service.py --config output/inference_model/deploy.yaml [--clients 200] [--seconds 600]

Starts the service; clients send images of many sizes, a third of them bad (cut off, no image, empty), one after the other.
Every class map is compared with the predictor's own. Exits with 1 on a wrong answer.
"""

import argparse
import asyncio
import collections
import io
import logging
import os
import random
import re
import socket
import subprocess
import sys
import time

import cv2
import httpx
import numpy as np
from PIL import Image

from paddleseg_psp.bundle import load_predictor
from paddleseg_psp.errors import UserError

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BAD = {b"": 400, b"this is no image": 415, cv2.imencode(".png", np.zeros((99, 99), np.uint8))[1].tobytes()[:60]: 422}


def good_files(predictor, count=60):
    """Returns encoded images of different sizes, and the predictor's class map of each."""
    numbers, files = np.random.RandomState(0), []
    for _ in range(count):
        height, width = numbers.randint(40, 300, 2)
        image = cv2.resize(numbers.randint(0, 256, (6, 8, 3), dtype=np.uint8), (int(width), int(height)))
        files.append((cv2.imencode(".png", image)[1].tobytes(), predictor.predict([image])[0]))
    return files


def start(args, limits=()):
    """Returns a running service's address and process; limits are more of its flags."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, f"{ROOT}/deploy/serving/serve.py", "--config", args.config, "--backend", args.backend]
    process = subprocess.Popen([*command, "--port", str(port), *limits], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        try:
            if httpx.get(f"{address}/ready").status_code == 200:
                return address, process
        except httpx.TransportError:
            time.sleep(0.1)
    raise UserError("the service did not start")


def ids_of(png):
    """Returns the pixels of a class map's file."""
    return np.asarray(Image.open(io.BytesIO(png)))


def megabytes(process):
    with open(f"/proc/{process.pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024


async def load(address, process, good, args):
    """Sends requests; returns how many had which outcome, and the seconds of the good ones."""
    outcomes, seconds, end = collections.Counter(), [], time.monotonic() + args.seconds

    async def client(number, http):
        choice = random.Random(number)
        while time.monotonic() < end:
            begun = time.monotonic()
            if choice.random() < 1 / 3:
                content, status = choice.choice(list(BAD.items()))
                answer = await http.post("/predict", content=content)
                outcomes["bad refused" if answer.status_code == status else f"bad got {answer.status_code}"] += 1
                continue
            content, expected = choice.choice(good)
            answer = await http.post("/predict?output=ids", content=content)
            seconds.append(time.monotonic() - begun)
            if answer.status_code != 200:
                outcomes[f"good got {answer.status_code}"] += 1
            else:
                same = np.mean(ids_of(answer.content) == expected)
                outcomes["good right" if same >= 0.9999 else "good wrong"] += 1

    async def watch():
        while time.monotonic() < end:
            print(f"{end - time.monotonic():5.0f} s left: {megabytes(process):.0f} MB, {dict(outcomes)}", flush=True)
            await asyncio.sleep(min(60, args.seconds / 5))

    limits = httpx.Limits(max_connections=args.clients)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as http:
        await asyncio.gather(watch(), *[client(number, http) for number in range(args.clients)])
    return outcomes, seconds


def main():
    parser = argparse.ArgumentParser(description="Load the HTTP service and watch it.")
    parser.add_argument("--config", required=True, help="a bundle's deploy.yaml")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600)
    args = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log each request
    good = good_files(load_predictor(args.config, args.backend))
    address, process = start(args)
    try:
        outcomes, seconds = asyncio.run(load(address, process, good, args))
        print(f"{megabytes(process):.0f} MB in the end; {dict(outcomes)}")
    finally:
        process.terminate()
        process.wait()
    median, late = np.percentile(seconds, [50, 99])
    rate = len(seconds) / args.seconds
    print(f"{rate:.1f} images a second, {args.clients} clients; answers after {median:.2f} s, 99 % after {late:.2f} s")
    if set(outcomes) != {"good right", "bad refused"}:
        sys.exit("Error: some answers were wrong")


if __name__ == "__main__":
    main()
