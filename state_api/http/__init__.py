"""The HTTP contract: FastAPI routers, models, problem documents, keys."""
