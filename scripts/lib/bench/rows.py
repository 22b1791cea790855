"""What is measured: one function for each row. All times end at the first right HTTP byte, or when the object can be read and
the process is gone."""
import os
import shutil
import socket
import subprocess
import time

import api
from harness import Row, interleave, milliseconds
from podman import Podman
from torpord import Torpord

GIB, MIB = 1 << 30, 1 << 20


def get(host, port, path, wanted=None, deadline=60):
    """The body, tried again until it is there."""
    end = time.monotonic() + deadline
    while True:
        try:
            with socket.create_connection((host, port), 5) as s:
                s.settimeout(60)
                s.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                data = b""
                while chunk := s.recv(65536):
                    data += chunk
            head, _, body = data.partition(b"\r\n\r\n")
            if head and (wanted is None or body == wanted):
                return body
        except OSError:
            pass
        if time.monotonic() > end:
            raise SystemExit(f"{host}:{port}{path} does not answer")
        time.sleep(0.0005)


class Bench:
    def __init__(self, daemon, raw, binaries, runsc):
        self.daemon, self.raw, self.binaries, self.runsc = daemon, raw, binaries, runsc
        self.n = 0

    def name(self):
        self.n += 1
        return f"bench-{self.n}"

    def pod(self, memory=2 * GIB, command=("counter", "80")):
        return self.daemon.pod(name=self.name(), image="bench", command=list(command), memory=memory, cpus=2, ports=[80])

    def holding(self, mib):
        """A pod that holds so much memory."""
        pod = self.pod()
        get("127.0.0.1", pod["ports"][0]["host"], f"/hold?{mib}")
        return pod

    def raw_holding(self, mib):
        name = self.raw.bundle(["counter", "80"], 2 * GIB)
        self.raw.create(name)
        self.raw.do(name, "start", name)
        get(self.raw.ADDRESS, 80, f"/hold?{mib}")
        return name

    def l1(self, times):
        def ours():
            begun = time.monotonic()
            pod = self.pod(command=("httpd", "-f", "-p", "80", "-h", "/www"))
            get(pod["address"], 80, "/", b"hello\n")
            took = milliseconds(begun)
            self.daemon.remove(pod["id"])
            return took

        def theirs():
            name = self.raw.bundle(["httpd", "-f", "-p", "80", "-h", "/www"], 2 * GIB)
            begun = time.monotonic()
            self.raw.create(name)
            self.raw.do(name, "start", name)
            get(self.raw.ADDRESS, 80, "/", b"hello\n")
            took = milliseconds(begun)
            self.raw.delete(name)
            return took

        return interleave(Row("L1", 1.15, "create to first byte, against runsc create + start"), ours, theirs, times)

    def l2(self, times):
        """Both by their command lines, both ports asked for by number and reached on the host."""
        podman = Podman(self.runsc, self.image)
        server = ["httpd", "-f", "-p", "80", "-h", "/www"]

        def ours():
            name = self.name()
            begun = time.monotonic()
            self.daemon.cli("run", "-d", "--name", name, "-p", "29298:80", "-m", "2g", "--cpus", "2", "bench", *server)
            get("127.0.0.1", 29298, "/", b"hello\n")
            took = milliseconds(begun)
            self.daemon.remove(name)
            return took

        def theirs():
            name = self.name()
            begun = time.monotonic()
            podman.run(29297, name)
            get("127.0.0.1", 29297, "/", b"hello\n")
            took = milliseconds(begun)
            podman.remove(name)
            return took

        try:
            return interleave(Row("L2", 0.7, "create to first byte, against podman run -p"), ours, theirs, times)
        finally:
            podman.close()

    def l5(self, times):
        pod = self.holding(64)
        port = pod["ports"][0]["host"]
        raw = self.raw_holding(64)
        images = f"{self.raw.dir}/images"
        os.makedirs(images)
        self.raw.do(raw, "checkpoint", "--compression=none", "--image-path", images, raw)
        self.raw.delete(raw)

        def ours():
            self.daemon.call("POST", f"/v1/pods/{pod['id']}/sleep")
            begun = time.monotonic()
            self.daemon.call("POST", f"/v1/pods/{pod['id']}/wake")
            get("127.0.0.1", port, "/")
            return milliseconds(begun)

        def theirs():
            name = self.raw.bundle(["counter", "80"], 2 * GIB)
            begun = time.monotonic()
            self.raw.create(name)
            self.raw.address()
            self.raw.do(name, "restore", "--detach", "--bundle", f"{self.raw.dir}/{name}", "--image-path", images, name)
            get(self.raw.ADDRESS, 80, "/")
            took = milliseconds(begun)
            self.raw.delete(name)
            return took

        row = interleave(Row("L5", 1.15, "wake from the local cache, against runsc create + restore"), ours, theirs, times)
        self.daemon.remove(pod["id"])
        shutil.rmtree(images)
        return row

    def l6(self, times):
        pod = self.holding(256)
        port = pod["ports"][0]["host"]
        raw = self.raw_holding(256)
        images, packed = f"{self.raw.dir}/images", f"{self.raw.dir}/packed"
        os.makedirs(images), os.makedirs(packed)
        self.raw.do(raw, "checkpoint", "--compression=none", "--image-path", images, raw)
        self.raw.delete(raw)
        for name in os.listdir(images):
            subprocess.run(["zstd", "-q", "-1", f"{images}/{name}", "-o", f"{packed}/{name}.zst"], check=True)
        shutil.rmtree(images)

        def ours():
            self.daemon.call("POST", f"/v1/pods/{pod['id']}/sleep")
            # The daemon counts what it keeps when it starts: emptied under it, it would miss the files.
            snapshot = self.daemon.call("GET", f"/v1/pods/{pod['id']}")["snapshot"]
            taken = f"{self.daemon.state}/cache/{snapshot}"
            for name in os.listdir(taken):
                os.unlink(f"{taken}/{name}")
            os.rmdir(taken)
            begun = time.monotonic()
            self.daemon.call("POST", f"/v1/pods/{pod['id']}/wake")
            get("127.0.0.1", port, "/")
            return milliseconds(begun)

        def theirs():
            name = self.raw.bundle(["counter", "80"], 2 * GIB)
            os.makedirs(images)
            begun = time.monotonic()
            for file in os.listdir(packed):
                subprocess.run(["zstd", "-q", "-d", f"{packed}/{file}", "-o", f"{images}/{file[:-4]}"], check=True)
            self.raw.create(name)
            self.raw.address()
            self.raw.do(name, "restore", "--detach", "--bundle", f"{self.raw.dir}/{name}", "--image-path", images, name)
            get(self.raw.ADDRESS, 80, "/")
            took = milliseconds(begun)
            self.raw.delete(name)
            shutil.rmtree(images)
            return took

        row = interleave(Row("L6", 0.85, "wake from the store at 256 MiB, against zstd -d + create + restore"), ours, theirs, times)
        self.daemon.remove(pod["id"])
        shutil.rmtree(packed)
        return row

    def l7(self, times):
        target = f"{self.raw.dir}/bucket"
        os.makedirs(target)

        def ours():
            pod = self.holding(256)
            begun = time.monotonic()
            self.daemon.call("POST", f"/v1/pods/{pod['id']}/sleep")
            took = milliseconds(begun)
            assert not os.path.exists(f"/proc/{pod['sandboxPid']}"), "the sandbox is gone"
            self.daemon.remove(pod["id"])
            return took

        def theirs():
            name = self.raw_holding(256)
            images = f"{self.raw.dir}/images"
            os.makedirs(images)
            begun = time.monotonic()
            self.raw.do(name, "checkpoint", "--compression=none", "--image-path", images, name)
            for file in os.listdir(images):
                subprocess.run(["zstd", "-q", "-T0", "-1", f"{images}/{file}", "-o", f"{images}/{file}.zst"], check=True)
                shutil.copy(f"{images}/{file}.zst", f"{target}/{file}.zst")
                # A power cut loses no snapshot of torpor's: a copy that is still in memory would not be the same.
                with open(f"{target}/{file}.zst", "rb") as copy:
                    os.fsync(copy.fileno())
            self.raw.do(name, "delete", "--force", name)
            took = milliseconds(begun)
            shutil.rmtree(images)
            shutil.rmtree(f"{self.raw.dir}/{name}")
            return took

        return interleave(Row("L7", 0.7, "sleep at 256 MiB, against checkpoint + zstd -T0 -1 + synced copy"), ours, theirs, times)

    def l12(self, _times):
        row = Row("L12", 1.5, "peak memory of the daemon (KiB): a 1 GiB pod sleeps, against a 16 MiB one")
        for into, mib in ((row.theirs, 16), (row.ours, 1024)):
            daemon = Torpord(self.binaries, self.runsc, number=1)
            try:
                daemon.call("POST", "/v1/images?name=bench", open(self.image, "rb"), "application/octet-stream")
                bench = Bench(daemon, self.raw, self.binaries, self.runsc)
                pod = bench.holding(mib)
                daemon.call("POST", f"/v1/pods/{pod['id']}/sleep")
                into.append(daemon.peak_memory())
            finally:
                daemon.close()
        return row

    def n1(self, _times):
        """Measured inside the driver: there is no call that makes a network alone."""
        row = Row("N1", 0.2, "a pod's network and forward, against nine ip and iptables commands")
        for line in subprocess.run([os.environ["TORPOR_BENCH_NETWORK"]], check=True, capture_output=True, text=True).stdout.splitlines():
            ours, theirs = line.split()
            row.ours.append(float(ours))
            row.theirs.append(float(theirs))
        return row


ROWS = {"L1": (Bench.l1, 15), "L2": (Bench.l2, 15), "L5": (Bench.l5, 11), "L6": (Bench.l6, 7), "L7": (Bench.l7, 7), "L12": (Bench.l12, 1),
        "N1": (Bench.n1, 15), **api.ROWS}
