"""One relation for each kind of array: what its rows are, and which places of which arrays their values lie at."""

from vlmlake.queries.relations.attention import Attention, AttentionImage
from vlmlake.queries.relations.base import Relation
from vlmlake.queries.relations.hidden_states import HiddenStates
from vlmlake.queries.relations.logits_top import LogitsTop
from vlmlake.queries.relations.readout_states import ReadoutStates
from vlmlake.queries.relations.tokens import Prefixes, Tokens

RELATIONS: tuple[Relation, ...] = (
    HiddenStates(),
    ReadoutStates(),
    Attention(),
    AttentionImage(),
    LogitsTop(),
    Tokens(),
    Prefixes(),
)
