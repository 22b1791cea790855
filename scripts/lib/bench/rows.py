"""What is measured: one function for each row. All times end at the first right HTTP byte, or when the object can be read and
the process is gone."""
import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import threading
import time

from harness import Row, interleave, milliseconds, note
from podman import Podman
from torpord import Torpord
from websocket import WebSocket

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

    def exec_of_true(self, name, what, times, once):
        """`once` runs `true` in a pod and gives the milliseconds that it took."""
        pod = self.pod()
        raw = self.raw_holding(1)

        def theirs():
            begun = time.monotonic()
            self.raw.do(raw, "exec", raw, "true")
            return milliseconds(begun)

        row = interleave(Row(name, 0.3, what), lambda: once(pod["id"]), theirs, times * 3)
        self.daemon.remove(pod["id"])
        self.raw.delete(raw)
        return row

    def a3(self, times):
        def once(pod):
            begun = time.monotonic()
            self.daemon.call("POST", f"/v1/pods/{pod}/exec", {"command": ["true"]})
            return milliseconds(begun)

        return self.exec_of_true("A3", "exec of true, against runsc exec", times, once)

    def a3_socket(self, times):
        """The same by WebSocket, each on a connection of its own, from before it is opened to the exit code."""
        def once(pod):
            begun = time.monotonic()
            exec = WebSocket(self.daemon.socket, f"/v1/pods/{pod}/exec")
            exec.say({"command": ["true"]})
            last = None
            while True:
                kind, data = exec.next()
                if kind == 8:
                    break
                last = data
            took = milliseconds(begun)
            exec.close()
            assert json.loads(last) == {"type": "exit", "exitCode": 0, "timedOut": False}, last
            return took

        return self.exec_of_true("A3w", "exec of true by WebSocket, against runsc exec", times, once)

    def v1(self, _times):
        """200 viewers of one terminal that says 2 MB, and one more that reads nothing: every byte arrives, and memory stays."""
        row = Row("V1", 1.5, "memory of torpord (KiB): 200 viewers have been shown 2 MB of a terminal, against one")
        wanted = b"".join(b"%d\r\n" % n for n in range(1, 300001))
        script = "/terminal?id=v&command=sh&command=-c&command=stty+-echo;+echo+ready;+read+x;+seq+1+300000"

        def shown(viewers):
            pod = self.pod()
            url = f"/v1/pods/{pod['id']}"
            viewers = [WebSocket(self.daemon.socket, url + script) for _ in range(viewers)]
            idle = WebSocket(self.daemon.socket, url + "/terminal?id=v")

            def read(viewer, had):
                while True:
                    kind, data = viewer.next()
                    if kind == 2:
                        had += data
                    elif kind == 8:
                        return
                    else:
                        assert b"missed" not in data, data

            hads = [bytearray() for _ in viewers]
            threads = [threading.Thread(target=read, args=pair) for pair in zip(viewers, hads)]
            for t in threads:
                t.start()
            while any(b"ready" not in had for had in hads):
                time.sleep(0.01)
            viewers[0].send(b"\n")
            for t in threads:
                t.join()
            assert all(had.endswith(wanted) for had in hads), "a viewer misses something"
            memory = self.daemon.memory()
            for viewer in [*viewers, idle]:
                viewer.close()
            self.daemon.remove(pod["id"])
            return memory

        row.theirs.append(shown(1))
        row.ours.append(shown(200))
        return row

    def v2(self, times):
        """500 viewers of one pod's log as server-sent events, 50 of which take nothing, against one alone: until all that
        read have all lines. The memory that the daemon takes for them is noted."""
        lines, viewers, stalled = 2000, 500, 50
        script = f"i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo line $i; done; sleep 100000"
        pod = self.pod(command=("sh", "-c", script))

        def view():
            connection = self.daemon.connect()
            request = f"GET /v1/pods/{pod['id']}/logs HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n"
            connection.sendall(request.encode())
            connection.setblocking(False)
            return connection

        def until_all(connections):
            wanted = [f'"line":"line {n + 1}"'.encode() for n in range(lines)]
            texts = {c: bytearray() for c in connections}
            poller = selectors.DefaultSelector()
            for c in connections:
                poller.register(c, selectors.EVENT_READ)
            while texts:
                for key, _ in poller.select(60):
                    text = texts[key.fileobj]
                    chunk = key.fileobj.recv(1 << 20)
                    assert chunk, "the stream ended"
                    text += chunk
                    if wanted[-1] in chunk or wanted[-1] in text[-200:]:
                        found = re.findall(rb'"line":"line \d+"', text)
                        assert found == wanted, f"{len(found)} lines"
                        poller.unregister(key.fileobj)
                        del texts[key.fileobj]

        def timed(count, idle):
            begun = time.monotonic()
            held = [view() for _ in range(idle)]
            connections = [view() for _ in range(count)]
            until_all(connections)
            took = milliseconds(begun)
            for c in held + connections:
                c.close()
            return took / count

        timed(1, 0)
        before = self.daemon.peak_memory()
        row = interleave(Row("V2", 1.5, "all lines to each of 500 viewers, 50 more stall, against one viewer (ms a viewer)"),
                         lambda: timed(viewers, stalled), lambda: timed(1, 0), times)
        note(f"V2: the daemon's memory grew by {(self.daemon.peak_memory() - before) // 1024} MiB for {viewers + stalled} viewers")
        self.daemon.remove(pod["id"])
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
        "N1": (Bench.n1, 15), "A3": (Bench.a3, 15), "A3w": (Bench.a3_socket, 15), "V1": (Bench.v1, 1), "V2": (Bench.v2, 5)}
