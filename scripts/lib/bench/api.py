"""What the API's answers are measured by: one function for each row, on a pod of the bench's."""
import json
import re
import selectors
import threading
import time

from harness import Row, interleave, milliseconds, note
from podman import Podman
from torpord import Kept
from websocket import WebSocket


def a1(bench, times):
    """On a connection that is open, 50 in a row: the time of one."""
    pod = bench.pod()
    raw = bench.raw_holding(1)
    connection = Kept(bench.daemon.socket)

    def ours():
        begun = time.monotonic()
        for _ in range(50):
            shown = connection.get(f"/v1/pods/{pod['id']}")
        took = milliseconds(begun) / 50
        assert json.loads(shown)["state"] == "running", shown
        return took

    def theirs():
        begun = time.monotonic()
        bench.raw.do(raw, "state", raw)
        return milliseconds(begun)

    row = interleave(Row("A1", 0.02, "GET of one pod, against runsc state"), ours, theirs, times * 3)
    connection.close()
    bench.daemon.remove(pod["id"])
    bench.raw.delete(raw)
    return row


def a2(bench, times):
    """200 that were made and not started: of those that run there is no more to be told."""
    podman, count = Podman(bench.runsc, bench.image), 200
    try:
        names = [bench.name() for _ in range(count)]
        for name in names:
            bench.daemon.pod(name=name, image="bench", command=["true"], start=False)
            podman.create(name)
        connection = Kept(bench.daemon.socket)

        def ours():
            begun = time.monotonic()
            shown = connection.get("/v1/pods")
            took = milliseconds(begun)
            assert len(json.loads(shown)) == count
            return took

        def theirs():
            begun = time.monotonic()
            podman.do("ps", "-a")
            return milliseconds(begun)

        row = interleave(Row("A2", 0.05, "list of 200 pods, against podman ps -a"), ours, theirs, times)
        connection.close()
        for name in names:
            bench.daemon.remove(name)
        return row
    finally:
        podman.close()


def exec_of_true(bench, name, what, times, once):
    """`once` runs `true` in a pod and gives the milliseconds that it took."""
    pod = bench.pod()
    raw = bench.raw_holding(1)

    def theirs():
        begun = time.monotonic()
        bench.raw.do(raw, "exec", raw, "true")
        return milliseconds(begun)

    row = interleave(Row(name, 0.3, what), lambda: once(pod["id"]), theirs, times * 3)
    bench.daemon.remove(pod["id"])
    bench.raw.delete(raw)
    return row


def a3(bench, times):
    def once(pod):
        begun = time.monotonic()
        bench.daemon.call("POST", f"/v1/pods/{pod}/exec", {"command": ["true"]})
        return milliseconds(begun)

    return exec_of_true(bench, "A3", "exec of true, against runsc exec", times, once)


def a3_socket(bench, times):
    """The same by WebSocket, each on a connection of its own, from before it is opened to the exit code."""
    def once(pod):
        begun = time.monotonic()
        exec = WebSocket(bench.daemon.socket, f"/v1/pods/{pod}/exec")
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

    return exec_of_true(bench, "A3w", "exec of true by WebSocket, against runsc exec", times, once)


def v1(bench, _times):
    """200 viewers of one terminal that says 2 MB, and one more that reads nothing: every byte arrives, and memory stays."""
    row = Row("V1", 1.5, "memory of torpord (KiB): 200 viewers have been shown 2 MB of a terminal, against one")
    wanted = b"".join(b"%d\r\n" % n for n in range(1, 300001))
    script = "/terminal?id=v&command=sh&command=-c&command=stty+-echo;+echo+ready;+read+x;+seq+1+300000"

    def shown(viewers):
        pod = bench.pod()
        url = f"/v1/pods/{pod['id']}"
        viewers = [WebSocket(bench.daemon.socket, url + script) for _ in range(viewers)]
        idle = WebSocket(bench.daemon.socket, url + "/terminal?id=v")

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
        memory = bench.daemon.memory()
        for viewer in [*viewers, idle]:
            viewer.close()
        bench.daemon.remove(pod["id"])
        return memory

    row.theirs.append(shown(1))
    row.ours.append(shown(200))
    return row


def viewer(bench, pod):
    """Follows a pod's log as server-sent events."""
    connection = bench.daemon.connect()
    request = f"GET /v1/pods/{pod['id']}/logs HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n"
    connection.sendall(request.encode())
    connection.setblocking(False)
    return connection


def until_all(connections, lines):
    """Reads until each has all lines, each once and in their order."""
    wanted = [f'"line":"line {n + 1}"'.encode() for n in range(lines)]
    texts = {c: bytearray() for c in connections}
    poller = selectors.DefaultSelector()
    for c in connections:
        poller.register(c, selectors.EVENT_READ)
    while texts:
        ready = poller.select(60)
        assert ready, f"nothing comes for {len(texts)} viewers"
        for key, _ in ready:
            text = texts[key.fileobj]
            chunk = key.fileobj.recv(1 << 20)
            assert chunk, "the stream ended"
            text += chunk
            if wanted[-1] in chunk or wanted[-1] in text[-200:]:
                found = re.findall(rb'"line":"line \d+"', text)
                assert found == wanted, f"{len(found)} lines"
                poller.unregister(key.fileobj)
                del texts[key.fileobj]


SAYS = "i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; done; sleep 100000"


def v2(bench, times):
    """500 viewers of what a pod's log holds, 50 more of which take nothing, against one alone: until all that read have all
    lines. The memory that the daemon takes for them is noted."""
    lines, viewers, stalled = 2000, 500, 50
    pod = bench.pod(command=("sh", "-c", SAYS % lines))

    def timed(count, idle):
        begun = time.monotonic()
        held = [viewer(bench, pod) for _ in range(idle)]
        connections = [viewer(bench, pod) for _ in range(count)]
        until_all(connections, lines)
        took = milliseconds(begun)
        for c in held + connections:
            c.close()
        return took / count

    timed(1, 0)
    before = bench.daemon.peak_memory()
    row = interleave(Row("V2", 1.5, "all lines to each of 500 viewers, 50 more stall, against one viewer (ms a viewer)"),
                     lambda: timed(viewers, stalled), lambda: timed(1, 0), times)
    note(f"V2: the daemon's memory grew by {(bench.daemon.peak_memory() - before) // 1024} MiB for {viewers + stalled} viewers")
    bench.daemon.remove(pod["id"])
    return row


def v3(bench, times):
    """Lines that come while 500 look: until each has all of them, with 50 more that take nothing, against the same without."""
    lines, viewers, stalled = 5000, 500, 50

    def timed(idle):
        pod = bench.pod(command=("sh", "-c", "while [ ! -e /go ]; do sleep 0.02; done; " + SAYS % lines))
        held = [viewer(bench, pod) for _ in range(idle)]
        connections = [viewer(bench, pod) for _ in range(viewers)]
        bench.daemon.call("POST", f"/v1/pods/{pod['id']}/exec", {"command": ["touch", "/go"]})
        begun = time.monotonic()
        until_all(connections, lines)
        took = milliseconds(begun)
        for c in held + connections:
            c.close()
        bench.daemon.remove(pod["id"])
        return took

    row = Row("V3", 1.3, "lines that come while 500 look, 50 more stall, against none that stalls (ms)")
    before = bench.daemon.memory()
    interleave(row, lambda: timed(stalled), lambda: timed(0), times)
    note(f"V3: {lines} lines to each; the daemon's memory is {(bench.daemon.memory() - before) // 1024} MiB more than before")
    return row


ROWS = {"A1": (a1, 15), "A2": (a2, 15), "A3": (a3, 15), "A3w": (a3_socket, 15), "V1": (v1, 1), "V2": (v2, 5), "V3": (v3, 3)}
