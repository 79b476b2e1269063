"""Training: solver, update rules, data, snapshots, reports."""

from jaffe.train.caffe_log import CaffeLogReporter as CaffeLogReporter
from jaffe.train.class_report import ClassReport as ClassReport
from jaffe.train.console import ConsoleReporter as ConsoleReporter
from jaffe.train.data import Dataset as Dataset
from jaffe.train.data import Feed as Feed
from jaffe.train.data import open_dataset as open_dataset
from jaffe.train.detection import DetectionReport as DetectionReport
from jaffe.train.detection import detection_report as detection_report
from jaffe.train.detection import evaluate_detection as evaluate_detection
from jaffe.train.devices import Devices as Devices
from jaffe.train.devices import Parallel as Parallel
from jaffe.train.evaluate import Evaluation as Evaluation
from jaffe.train.optimizer import make_optimizer as make_optimizer
from jaffe.train.report import Reporter as Reporter
from jaffe.train.report import Reporters as Reporters
from jaffe.train.report import Run as Run
from jaffe.train.schedules import learning_rate as learning_rate
from jaffe.train.solver import Solver as Solver
from jaffe.train.step import TrainState as TrainState
from jaffe.train.step import make_test_step as make_test_step
from jaffe.train.step import make_train_step as make_train_step
from jaffe.train.tensorboard import TensorBoardReporter as TensorBoardReporter
