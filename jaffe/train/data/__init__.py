"""Where batches come from: sources of records, transforms, and the feed that joins them to a net."""

from jaffe.train.data.feed import Feed as Feed
from jaffe.train.data.sources import Dataset as Dataset
from jaffe.train.data.sources import open_dataset as open_dataset
