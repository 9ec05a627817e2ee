"""Are good clients of the HTTP service answered in time beside bad ones, and does its memory stay?

python dev/benchmarks/service_load.py --config output/inference_model/deploy.yaml [--minutes 10] [--idle 256] [--leaving 100]

Starts the service. First 50 good clients, one request after the other each, are alone. Then they have beside them clients that
send a request's headers and one byte and wait, and clients that leave in the middle of a request again and again: in its
headers, in its body, or as soon as it is sent. An answer counts as right if it is the predictor's own. Exits with 1 on a wrong
answer or a refusal.
"""

import argparse
import asyncio
import collections
import contextlib
import random
import sys
import time

import numpy as np
from service import good_files, ids_of, megabytes, start

from paddleseg_psp.bundle import load_predictor

HEAD = "POST /predict?output=ids HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n"


async def ask(address, content):
    """Returns the status of the answer to a file, and its body."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(HEAD.format(len(content)).encode() + content)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return (int(head.split(b" ", 2)[1]) if head else 0), body
    finally:
        writer.close()


async def good_client(number, address, files, end, outcomes, seconds):
    choice = random.Random(number)
    while time.monotonic() < end:
        content, expected = choice.choice(files)
        begun = time.monotonic()
        try:
            status, body = await ask(address, content)
        except OSError as error:
            status, body = type(error).__name__, b""
        seconds.append(time.monotonic() - begun)
        right = status == 200 and np.mean(ids_of(body) == expected) >= 0.9999
        outcomes["right" if right else "wrong" if status == 200 else f"refused ({status})"] += 1


async def idle_client(address, end):
    """Sends headers and one byte, and again when that connection is ended."""
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(HEAD.format(9999).encode() + b"a")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(), max(end - time.monotonic(), 0.1))
            writer.close()


async def leaving_client(number, address, files, end):
    choice = random.Random(number)
    while time.monotonic() < end:
        content, _ = choice.choice(files)
        whole = HEAD.format(len(content)).encode() + content
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(*address)
            sent = choice.choice([20, len(whole) // 2, len(whole)])
            writer.write(whole[:sent])
            await asyncio.sleep(choice.uniform(0, 2 if sent < len(whole) else 0.05))
            writer.transport.abort()


async def watch(process, begun, end):
    while time.monotonic() < end:
        print(f"{(time.monotonic() - begun) / 60:5.1f} min: {megabytes(process):.0f} MB", flush=True)
        await asyncio.sleep(min(60, max(end - time.monotonic(), 0.01)))


async def phase(name, address, process, files, minutes, args, bad):
    """Returns the outcomes and the seconds of the good clients' requests in so many minutes."""
    outcomes, seconds, begun = collections.Counter(), [], time.monotonic()
    end = begun + 60 * minutes
    clients = [good_client(number, address, files, end, outcomes, seconds) for number in range(args.good)]
    if bad:
        clients += [idle_client(address, end) for _ in range(args.idle)]
        clients += [leaving_client(number, address, files, end) for number in range(args.leaving)]
    await asyncio.gather(watch(process, begun, end), *clients)
    median, late = np.percentile(seconds, [50, 95])
    print(f"{name}: {len(seconds)} requests, median {median:.3f} s, 95 % within {late:.3f} s; {dict(outcomes)}")
    return outcomes, np.array([median, late])


async def phases(address, process, files, args):
    await phase("warming up", address, process, files, args.minutes / 20, args, bad=False)
    alone, times = await phase("alone", address, process, files, args.minutes / 5, args, bad=False)
    beside, others = await phase("beside bad clients", address, process, files, args.minutes, args, bad=True)
    ratios = others / times
    print(f"beside bad clients / alone: median {ratios[0]:.2f}, 95 % {ratios[1]:.2f}; in the end {megabytes(process):.0f} MB")
    return alone + beside


def main():
    parser = argparse.ArgumentParser(description="Load the HTTP service with good clients beside bad ones.")
    parser.add_argument("--config", required=True, help="a bundle's deploy.yaml")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--good", type=int, default=50, help="clients that send one good request after the other")
    parser.add_argument("--idle", type=int, default=256, help="clients that send headers and one byte")
    parser.add_argument("--leaving", type=int, default=100, help="clients that leave in the middle of a request")
    parser.add_argument("--minutes", type=float, default=10, help="beside bad clients; a fifth of that alone")
    parser.add_argument("limits", nargs=argparse.REMAINDER, help="after --: flags of serve.py, e.g. -- --max_requests 100")
    args = parser.parse_args()
    files = good_files(load_predictor(args.config, args.backend))
    address, process = start(args, [item for item in args.limits if item != "--"])
    host, port = address.rpartition("/")[2].split(":")
    try:
        outcomes = asyncio.run(phases((host, int(port)), process, files, args))
    finally:
        process.terminate()
        process.wait()
    if set(outcomes) != {"right"}:
        sys.exit("Error: some good clients were refused or answered wrongly")


if __name__ == "__main__":
    main()
