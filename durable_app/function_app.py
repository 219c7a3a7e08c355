"""The Azure Functions entry of the sample app: its functions, and the version of its orchestrator."""

import os

import azure.durable_functions as df
import azure.functions as func

# In Azure this folder is the import root. durable_app/local adds it to the import path.
from orders import DEFAULT_VERSION, VERSION_SETTING, api, monitor, payment, pricing, shipping, stock, v1, v2

VERSIONS = {"v1": v1.blueprint, "v2": v2.blueprint}
# A real app has one version of its code, which a deployment replaces. This package has both versions. A setting that is
# not slot-sticky selects one, as the deployment of other code would.
VERSION = os.environ.get(VERSION_SETTING, DEFAULT_VERSION)

if VERSION not in VERSIONS:
    raise ValueError(f"{VERSION_SETTING} must be one of {', '.join(VERSIONS)}, not {VERSION}")

app = df.DFApp(http_auth_level=func.AuthLevel.FUNCTION)
for shared in (api, monitor, payment, pricing, shipping, stock):
    app.register_functions(shared.blueprint)
app.register_functions(VERSIONS[VERSION])
