"""What schemathesis is told of a torpord beyond its document: what is there, so that it is not refused each time, and its archives."""

import json
import os
import zlib

import schemathesis

KNOWN = json.loads(os.environ["TORPOR_KNOWN"])
# These have no end while a pod runs: they are asked of one that has ended.
ENDLESS = ("/wait", "/logs", "/stats")


def often(value):
    """Two times of three, and the same each time."""
    return zlib.crc32(repr(value).encode()) % 3 != 0


@schemathesis.hook
def map_path_parameters(context, parameters):
    if parameters and often(parameters):
        return {name: KNOWN.get(name, value) for name, value in parameters.items()}
    return parameters


@schemathesis.hook
def before_call(context, case, kwargs):
    # Names are learned from answers, too: whatever pod it is about, here it has ended, and it stays so.
    if "pod" in (case.path_parameters or {}):
        if case.operation.path.endswith(ENDLESS):
            case.path_parameters["pod"] = KNOWN["ended"]
        elif case.path_parameters["pod"] == KNOWN["ended"]:
            case.path_parameters["pod"] = KNOWN["pod"]
    # What is there is to be there for the others.
    if case.operation.method.upper() == "DELETE":
        for name, value in (case.path_parameters or {}).items():
            if value == KNOWN.get(name):
                case.path_parameters[name] = "gone"


@schemathesis.hook
def map_body(context, body):
    # Made, but not started: there are hundreds.
    if context.operation.path == "/v1/pods" and isinstance(body, dict) and often(body):
        return {**body, "image": KNOWN["name"], "start": False}
    return body


@schemathesis.serializer("application/x-tar", "application/x-ndjson")
def archive(context, value):
    return value if isinstance(value, bytes) else repr(value).encode()


@schemathesis.deserializer("application/x-tar")
def unread(context, response):
    return response.content.decode("latin-1")


@schemathesis.deserializer("application/x-ndjson")
def last_line(context, response):
    lines = response.content.splitlines()
    return json.loads(lines[-1]) if lines else {"timestamp": "", "stream": "stdout", "line": ""}
