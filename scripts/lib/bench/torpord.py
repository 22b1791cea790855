"""A torpord of the bench's own, and calls of its API."""
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("torpor", timeout=600)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(600)
        self.sock.connect(self.path)


class Kept:
    """One connection on which one GET follows the other, as API clients have it; the client's own share is small."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)

    def get(self, path):
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nhost: torpor\r\n\r\n".encode())
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self.more()
        head = bytes(data[:end]).lower()
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"GET {path}: {head.decode()}")
        size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(data) < end + 4 + size:
            data += self.more()
        return bytes(data[end + 4:])

    def more(self):
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError
        return data

    def close(self):
        self.socket.close()


class Torpord:
    """`number` keeps the addresses and ports of several apart."""

    def __init__(self, binaries, runsc, number=0):
        self.binaries = binaries
        self.dir = tempfile.mkdtemp(prefix="torpor-bench-", dir="/var/tmp")
        self.socket = f"{self.dir}/api.sock"
        self.state = f"{self.dir}/state"
        log = open(f"{self.dir}/log", "w")
        self.process = subprocess.Popen(
            [f"{binaries}/torpord", "--state-dir", self.state, "--socket", self.socket, "--pod-cidr", f"10.94.{16 * number}.0/20",
             "--port-range", f"{29000 + 100 * number}-{29099 + 100 * number}", "--runsc", runsc],
            env={"PATH": os.environ["PATH"], "TORPOR_LIBEXEC": binaries, "TORPOR_LOG": "warn"}, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.call("GET", "/health")
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("torpord did not start:\n" + open(f"{self.dir}/log").read())
                time.sleep(0.02)
        self.tag = open(f"{self.state}/instance").read().strip()

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.socket)
        return connection

    def call(self, method, path, body=None, kind="application/json"):
        connection = Unix(self.socket)
        headers = {}
        if body is not None:
            headers["content-type"] = kind
            if kind == "application/json":
                body = json.dumps(body)
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {text.decode()}")
        return json.loads(text) if text else None

    def cli(self, *args):
        """As somebody at a terminal asks it."""
        command = [f"{self.binaries}/torpor", "--host", f"unix://{self.socket}", *args]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def pod(self, **spec):
        return self.call("POST", "/v1/pods", spec)

    def remove(self, name):
        self.call("DELETE", f"/v1/pods/{name}?force=true")

    def memory(self, of="VmRSS"):
        """KiB."""
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith(of):
                return int(line.split()[1])
        return 0

    def peak_memory(self):
        return self.memory("VmHWM")

    def close(self):
        for pod in self.call("GET", "/v1/pods"):
            self.remove(pod["id"])
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        shutil.rmtree(self.dir)
