"""A Function App with a function for each name in the setting TIMERS, which runs every second and writes its name into
a file."""

import os
from pathlib import Path

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
runs = Path(os.environ["RUNS_FILE"])


@app.function_name("Health")
@app.route(route="health", methods=["GET"])
def health(req: func.HttpRequest) -> func.HttpResponse:
    """Answers once the host has started the app."""
    return func.HttpResponse("ok")


def add_timer(name: str) -> None:
    """Add a function that notes every second that it has run."""

    @app.function_name(name)
    @app.timer_trigger(arg_name="timer", schedule="* * * * * *")
    def run(timer: func.TimerRequest) -> None:
        with runs.open("a") as file:
            file.write(f"{name}\n")


for timer_name in os.environ["TIMERS"].split(","):
    add_timer(timer_name)
