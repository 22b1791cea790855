"""As much of a WebSocket client as the bench needs: text and binary frames in one piece."""
import base64
import json
import os
import socket
import struct


class WebSocket:
    def __init__(self, path, url):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(120)
        self.socket.connect(path)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((f"GET {url} HTTP/1.1\r\nhost: torpor\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
                             f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n").encode())
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.read()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise SystemExit(f"{url}: {head.decode()}")

    def read(self):
        data = self.socket.recv(262144)
        if not data:
            raise EOFError
        return data

    def take(self, size):
        while len(self.rest) < size:
            self.rest += self.read()
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def send(self, data, kind=2):
        mask = os.urandom(4)
        size = len(data)
        head = struct.pack("!BB", 0x80 | kind, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x80 | kind, 0xfe, size)
        self.socket.sendall(head + mask + bytes(b ^ mask[n % 4] for n, b in enumerate(data)))

    def say(self, value):
        self.send(json.dumps(value).encode(), 1)

    def next(self):
        """Kind and bytes of the next frame; kind 8 is the end."""
        first, size = self.take(2)
        if size == 126:
            size, = struct.unpack("!H", self.take(2))
        elif size == 127:
            size, = struct.unpack("!Q", self.take(8))
        return first & 15, self.take(size)

    def close(self):
        self.socket.close()
