"""Finding inferences: filters as conditions, pages in any order, and what is stored so that an index answers them."""

from orchestrator.inference_store.filtering.conditions import conditions
from orchestrator.inference_store.filtering.embeddings import Found
from orchestrator.inference_store.filtering.knowledge import look
from orchestrator.inference_store.filtering.pages import count, found, page

__all__ = ["Found", "conditions", "count", "found", "look", "page"]
