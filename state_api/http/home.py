"""The page at `/`: which server this is, and where to read on. It needs no key, so it shows nothing that needs one."""

import base64
import hashlib

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from state_api import __version__
from state_api.http.auth import HOME_PATH

_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 40rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.2; }
h2 { font-size: 1.1rem; margin-top: 1.5rem; }
ul { padding-left: 1.25rem; }
"""

HOME_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Task hub state server</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Task hub state server</h1>
<p>Version {__version__}. It reports when an old version of a Durable Functions app may be overwritten or deleted:
when no orchestration is active in its task hub.</p>
<h2>This server</h2>
<ul>
<li><a href="/api/openapi.json">The API</a>, as an OpenAPI document</li>
<li><a href="/api/health">Health</a>: whether the server runs</li>
<li><a href="/api/health/ready">Ready</a>: whether it also reaches its storage</li>
</ul>
<p>These three need no key. Any other operation needs one, unless the server runs on your own machine without keys.</p>
<h2>Documents</h2>
<p>They are files of the project from which this server was deployed.</p>
<ul>
<li><code>docs/first-hour.md</code>: from nothing to the first guarded deployment</li>
<li><code>docs/cli.md</code>: the command line <code>safe-deploy</code></li>
<li><code>docs/http-api.md</code>: the operations of the API</li>
<li><code>docs/reasons.md</code>: every code, and what to do about it</li>
<li><code>README.md</code>: all other documents</li>
</ul>
</main>
</body>
</html>
"""

_STYLE_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HOME_PAGE_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
}
"""The page loads nothing and runs no script. Only its own style is allowed."""

router = APIRouter()


@router.get(HOME_PATH, include_in_schema=False)
async def get_home_page() -> HTMLResponse:
    """The page as HTML. It is the same for every caller."""
    return HTMLResponse(HOME_PAGE, headers=HOME_PAGE_HEADERS)
