"""Starts the HTTP service of an exported network, sends it images, writes its class maps, and ends it.

python test_tipc/serving.py --config deploy.yaml --image_path FOLDER --save_dir MAPS
"""

import argparse
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from paddleseg_psp.commands.run import run
from paddleseg_psp.data.reading.images import find_images, output_names
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path
from paddleseg_psp.progress import track

START = 120  # seconds that the service may take


def main(argv=None):
    parser = argparse.ArgumentParser(description="Class maps by the HTTP service of an exported network.")
    parser.add_argument("--config", required=True, help="deploy.yaml of the bundle")
    parser.add_argument("--image_path", required=True, help="an image or a folder")
    parser.add_argument("--save_dir", required=True, help="folder for the maps")
    run(_send, parser, argv)


def _send(args):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "deploy/serving/serve.py", "--config", args.config, "--port", str(port)]
    service = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(service, f"{url}/health")
        images, folder = find_images(args.image_path, args.save_dir)
        for path, name in zip(track(images, len(images), "[SERVE]"), output_names(images, folder)):
            with open(path, "rb") as file:
                answer = _post(f"{url}/predict?output=ids", file.read(), path)
            with atomic_path(os.path.join(args.save_dir, f"{name}.png")) as target, open(target, "wb") as file:
                file.write(answer)
        print(f"{len(images)} class maps are in {args.save_dir}")
    finally:
        service.terminate()
        service.wait()


def _wait(service, url):
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise UserError(f"the service ended with {service.returncode} before it answered")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise UserError(f"the service did not answer within {START} s")


def _post(url, content, path):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, content), timeout=120) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise UserError(f"the service refused {path}: {error.code} {error.read().decode(errors='replace')}")
    except OSError as error:
        raise UserError(f"the service did not answer for {path}: {error}")


if __name__ == "__main__":
    main()
