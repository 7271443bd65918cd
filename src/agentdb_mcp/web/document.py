"""The OpenAPI document, and the page at `/docs` that shows it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response

# https://swagger.io's page, from one version whose files the browser compares with their hashes.
_SWAGGER = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0/"
_SCRIPT = "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9"
_STYLE = "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I"
_START = "SwaggerUIBundle({url: '/openapi.json', dom_id: '#swagger-ui', deepLinking: true})"
_START_HASH = "sha256-2oceHOCiyCklDjPnKbQ8NgLIYBVALCYg0wAAeFdgd4U="
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>agentdb-mcp: REST</title>
<link rel="stylesheet" href="{_SWAGGER}swagger-ui.css" integrity="{_STYLE}" crossorigin="anonymous">
</head>
<body>
<div id="swagger-ui"><a href="/openapi.json">The OpenAPI document</a></div>
<script src="{_SWAGGER}swagger-ui-bundle.js" integrity="{_SCRIPT}" crossorigin="anonymous"></script>
<script>{_START}</script>
</body>
</html>
"""
# Who types a key into this page gives it to this server alone.
_POLICY = (
    f"default-src 'none'; script-src {_SWAGGER} '{_START_HASH}'; style-src {_SWAGGER} 'unsafe-inline'; img-src data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_SCHEMES = {
    "serviceKey": {"type": "http", "scheme": "bearer", "description": "The platform's service key."},
    "internalApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "x-internal-api-key",
        "description": "The service key, too.",
    },
    "token": {"type": "http", "scheme": "bearer", "description": "A token of `POST /api/tokens` with the scope named."},
}


class Api(FastAPI):
    """Its document has what is answered, and nothing else."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            document["components"]["securitySchemes"] = _SCHEMES
            for operations in document["paths"].values():
                for operation in operations.values():
                    _drop_unsent(operation["responses"])
            for unsent in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(unsent, None)
        return self.openapi_schema or {}


def _drop_unsent(answers: dict[str, Any]) -> None:
    """FastAPI documents its own 422 for arguments that do not fit; ours is a 400."""
    schema = answers.get("422", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if schema.get("$ref", "").endswith("/HTTPValidationError"):
        del answers["422"]


def add_page(app: FastAPI) -> None:
    """`/docs`."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(_PAGE, media_type="text/html", headers={"content-security-policy": _POLICY})
