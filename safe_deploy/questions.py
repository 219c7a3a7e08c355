"""What a person sees before a command replaces or removes something, and the question about it."""

from collections.abc import Sequence

from safe_deploy import rendering
from safe_deploy.errors import CommandError
from safe_deploy.prompts import Prompts
from safe_deploy.session import Session


def show_before_question(
    session: Session, columns: Sequence[str], rows: rendering.Rows, title: str, *, notes: Sequence[str] = ()
) -> None:
    """Print to stderr what a command would replace or remove, because stdout is for what it has done."""
    session.show(title)
    if rows:
        rendering.print_table(session.err, columns, rows)
    for note in notes:
        session.show(note)


def require_confirmation(prompts: Prompts, question: str) -> None:
    """Raises CommandError if the person does not agree, and UsageError if no question can be asked."""
    if not prompts.confirm(question):
        raise CommandError("nothing was changed, because the question was not answered with yes")
