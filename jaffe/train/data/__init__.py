"""Where batches come from: sources of records, transforms, and the feed that joins them to a net."""

from jaffe.train.data.balance import balance as balance
from jaffe.train.data.balance import cap_labels as cap_labels
from jaffe.train.data.balance import few_shot as few_shot
from jaffe.train.data.balance import only_labels as only_labels
from jaffe.train.data.dataset import Dataset as Dataset
from jaffe.train.data.dataset import renamed as renamed
from jaffe.train.data.feed import Feed as Feed
from jaffe.train.data.sources import open_dataset as open_dataset
