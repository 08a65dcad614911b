"""Is the document on standard input an OpenAPI 3.1 document, and is every example in it what its schema says?

Prints what is wrong, one finding a line, and a last line with the counts. Exit status 1 when anything is wrong.
"""

import json
import sys

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

ROOT = "urn:document"


def escape(step):
    return step.replace("~", "~0").replace("/", "~1")


def main():
    document = json.load(sys.stdin)
    findings = []
    for error in OpenAPIV31SpecValidator(document).iter_errors():
        findings.append(f"document: {'/'.join(map(str, error.path))}: {error.message}")

    resource = Resource(contents=document, specification=DRAFT202012)
    registry = Registry().with_resource(ROOT, resource)
    counts = {"schemas": 0, "examples": 0, "operations": 0}

    def check(pointer, value, what):
        counts["examples"] += 1
        validator = Draft202012Validator({"$ref": f"{ROOT}#{pointer}"}, registry=registry)
        for error in validator.iter_errors(value):
            findings.append(f"{what} of {pointer}: /{'/'.join(map(str, error.path))}: {error.message[:300]}")

    def schema(pointer, node):
        if not isinstance(node, dict):
            return
        counts["schemas"] += 1
        for example in node.get("examples", []):
            check(pointer, example, "example")
        if "default" in node:
            check(pointer, node["default"], "default")
        for key in ("properties",):
            for name, inner in node.get(key, {}).items():
                schema(f"{pointer}/{key}/{escape(name)}", inner)
        for key in ("items", "additionalProperties", "propertyNames", "not"):
            schema(f"{pointer}/{key}", node.get(key))
        for key in ("oneOf", "anyOf", "allOf"):
            for index, inner in enumerate(node.get(key, [])):
                schema(f"{pointer}/{key}/{index}", inner)

    def carrier(pointer, node):
        """A media type, a parameter or a header: a schema, and examples beside it."""
        schema(f"{pointer}/schema", node["schema"])
        if "example" in node:
            check(f"{pointer}/schema", node["example"], "example")

    for name, node in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(node)
        schema(f"/components/schemas/{escape(name)}", node)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            counts["operations"] += 1
            base = f"/paths/{escape(path)}/{method}"
            for index, parameter in enumerate(operation.get("parameters", [])):
                carrier(f"{base}/parameters/{index}", parameter)
            contents = [(f"{base}/requestBody", operation.get("requestBody", {}))]
            for status, response in operation["responses"].items():
                contents.append((f"{base}/responses/{status}", response))
                for name, header in response.get("headers", {}).items():
                    carrier(f"{base}/responses/{status}/headers/{escape(name)}", header)
            for pointer, holder in contents:
                for media_type, media in holder.get("content", {}).items():
                    carrier(f"{pointer}/content/{escape(media_type)}", media)

    for finding in findings:
        print(finding)
    print(" ".join(f"{name}={count}" for name, count in counts.items()))
    sys.exit(1 if findings else 0)


main()
