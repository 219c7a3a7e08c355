"""The JSON that the server answers: the one place where the domain becomes JSON over HTTP."""
