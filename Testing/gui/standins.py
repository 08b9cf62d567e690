"""Stand-ins for what 3D Slicer gives to a scripted module: PythonQt, CTK, qMRML widgets and the module base classes.

Qt itself is real (PySide6). As in PythonQt, Qt properties are attributes and not methods, signals are connected by
their C++ signature, and an unknown attribute can't be set. Good for wiring, names, the .ui file and the scene; not for
the look of CTK or for threads.
"""
# ruff: noqa: N802, N803, N815 - names are Qt's and Slicer's

from __future__ import annotations

import inspect
import math
import sys
import types
import typing
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import shiboken6
import slicer
import vtk
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

# Virtual functions in C++ that share their name with a property; an attribute in their place would break Qt.
VIRTUAL = {"sizeHint", "minimumSizeHint", "text@QProgressBar"}


def _connect(self: Any, signal: str, slot: Any) -> bool:
    """``widget.connect("clicked(bool)", f)``; an unknown signal is an error, a slot gets the arguments it takes."""
    name = signal.split("(")[0]
    if signal not in getattr(type(self), "SIGNALS", ()):
        normalized = QtCore.QMetaObject.normalizedSignature(signal).data().decode()
        if self.metaObject().indexOfSignal(normalized) < 0:
            raise ValueError(f"{type(self).__name__} has no signal {signal}")
    parameters = inspect.signature(slot).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        getattr(self, name).connect(lambda *given: slot(*given))
    else:
        count = len(parameters)
        getattr(self, name).connect(lambda *given: slot(*given[:count]))
    return True


def _refusing_unknown(base: type) -> Any:
    def set_attribute(self: Any, name: str, value: Any) -> None:
        # QUiLoader itself sets each child by its name on the root.
        from_loader = isinstance(value, QtCore.QObject) and value.property("objectName") == name
        if not name.startswith("_") and not hasattr(type(self), name) and not from_loader:
            raise AttributeError(f"PythonQt refuses the unknown attribute '{name}' of {type(self).__name__}")
        base.__setattr__(self, name, value)

    return set_attribute


def _attribute(name: str) -> property:
    def write(self: Any, value: Any) -> None:
        if not self.setProperty(name, value):
            raise TypeError(f"{type(self).__name__}.{name} can't take {value!r}")

    return property(lambda self: self.property(name), write)


def pythonqt(base: type) -> type:
    """The class as PythonQt shows it."""
    meta = base.staticMetaObject  # type: ignore[attr-defined]
    names = [meta.property(i).name() for i in range(meta.propertyCount())]
    names = [n for n in names if n not in VIRTUAL and f"{n}@{base.__name__}" not in VIRTUAL]
    declared = {n for n in names if isinstance(inspect.getattr_static(base, n, None), QtCore.Property)}
    members: dict[str, Any] = {name: _attribute(name) for name in names if name not in declared}
    members |= {"connect": _connect, "__setattr__": _refusing_unknown(base)}
    return type(base)(base.__name__, (base,), members)


class _Collapsible(QtWidgets.QGroupBox):
    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._collapsed = False

    def _text(self) -> str:
        return QtWidgets.QGroupBox.title(self)

    def _set_text(self, text: str) -> None:
        self.setTitle(text)

    def _is_collapsed(self) -> bool:
        return self._collapsed

    def _set_collapsed(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        self.setMaximumHeight(26 if collapsed else 16777215)

    text = QtCore.Property(str, _text, _set_text)
    collapsed = QtCore.Property(bool, _is_collapsed, _set_collapsed)


class _PathEdit(QtWidgets.QLineEdit):
    SIGNALS = ("currentPathChanged(QString)",)
    currentPathChanged = QtCore.Signal(str)
    DIRS, FILES, ALL_ENTRIES = 1, 2, 0x6017  # of QDir; with files among them, the button browses for a file only

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._filters = self.ALL_ENTRIES
        self.textChanged.connect(self.currentPathChanged)

    currentPath = QtCore.Property(
        str, lambda self: QtWidgets.QLineEdit.text(self), lambda self, path: self.setText(path)
    )
    filters = QtCore.Property(int, lambda self: self._filters, lambda self, value: setattr(self, "_filters", value))


class _NodeComboBox(QtWidgets.QComboBox):
    SIGNALS = ("currentNodeChanged(vtkMRMLNode*)",)
    currentNodeChanged = QtCore.Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._types: list[str] = []
        self._flags: dict[str, bool] = {}
        self._scene: Any = None
        self._nodes: list[Any] = []
        self.currentIndexChanged.connect(lambda _: self.currentNodeChanged.emit(self.currentNode()))

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent):
            scene.AddObserver(event, lambda *_: shiboken6.isValid(self) and self._refresh())
        self._refresh()

    def currentNode(self) -> Any:
        index = QtWidgets.QComboBox.currentIndex(self)
        return self._nodes[index] if 0 <= index < len(self._nodes) else None

    def setCurrentNode(self, node: Any) -> None:
        if node in self._nodes:
            self.setCurrentIndex(self._nodes.index(node))

    def _refresh(self) -> None:
        chosen = self.currentNode()
        found = [
            n for kind in self._types for n in slicer.util.getNodesByClass(kind) if n.GetClassName() in self._types
        ]
        nodes = ([None] if self._flags.get("noneEnabled") else []) + found
        if nodes == self._nodes:
            return
        self.blockSignals(True)
        self.clear()
        self._nodes = nodes
        for node in nodes:
            self.addItem("None" if node is None else node.GetName())
        self.setCurrentIndex(nodes.index(chosen) if chosen in nodes else 0)
        self.blockSignals(False)
        if self.currentNode() is not chosen:
            self.currentNodeChanged.emit(self.currentNode())

    nodeTypes = QtCore.Property(
        "QStringList", lambda self: self._types, lambda self, types: setattr(self, "_types", list(types))
    )


def _flag(name: str) -> Any:
    return QtCore.Property(
        bool, lambda self: self._flags.get(name, False), lambda self, value: self._flags.update({name: value})
    )


for _name in ("showChildNodeTypes", "addEnabled", "removeEnabled", "noneEnabled"):
    _NodeComboBox = type(_NodeComboBox)("_NodeComboBox", (_NodeComboBox,), {_name: _flag(_name)})  # type: ignore[misc]


class _MRMLWidget(QtWidgets.QWidget):
    def setMRMLScene(self, scene: Any) -> None:
        for child in self.findChildren(QtWidgets.QWidget):
            if hasattr(child, "setMRMLScene"):
                child.setMRMLScene(scene)


_WIDGETS = (
    *("QWidget", "QFrame", "QLabel", "QComboBox", "QToolButton", "QPushButton", "QProgressBar", "QTableWidget"),
    *(
        "QListWidget",
        "QCheckBox",
        "QPlainTextEdit",
        "QLineEdit",
        "QGroupBox",
        "QTabWidget",
        "QSpinBox",
        "QDoubleSpinBox",
    ),
)
CLASSES = {name: pythonqt(getattr(QtWidgets, name)) for name in _WIDGETS} | {
    "ctkCollapsibleButton": pythonqt(_Collapsible),
    "ctkPathLineEdit": pythonqt(_PathEdit),
    "qMRMLNodeComboBox": pythonqt(_NodeComboBox),
    "qMRMLWidget": pythonqt(_MRMLWidget),
}


class _Loader(QtUiTools.QUiLoader):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []
        self.unknown: list[str] = []

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        if class_name not in CLASSES:  # an exception would end the process here
            self.unknown.append(f"{class_name} {name}")
            return QtWidgets.QWidget(parent)
        widget = CLASSES[class_name](parent)
        widget.setObjectName(name)
        self.made.append(widget)
        return widget


def load_ui(path: str | Path) -> Any:
    """The widgets of a .ui file; its connections are checked, and made by `setMRMLScene` of the root."""
    tree = ET.parse(path)
    root = tree.getroot()
    names = {element.get("name") for element in root.iter("widget")}
    for connection in root.iter("connection"):
        ends = {connection.findtext("sender"), connection.findtext("receiver")}
        if not ends <= names:
            raise ValueError(f"A connection in {path} names {ends - names}, which is no widget")
    connections = root.find("connections")
    if connections is not None:
        root.remove(connections)
    buffer = QtCore.QBuffer()
    buffer.setData(ET.tostring(root))
    buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
    loader = _Loader()
    widget = loader.load(buffer)
    if widget is None or loader.unknown:
        raise ValueError(f"{path}: {loader.errorString()} no stand-in for {', '.join(loader.unknown)}")
    widget._made = loader.made  # Python must keep them as long as the window
    return widget


def child_widget_variables(widget: Any) -> Any:
    """The named widgets as attributes of a plain object."""
    ui = types.SimpleNamespace()
    for child in widget.findChildren(QtWidgets.QWidget):
        if child.objectName and not str(child.objectName).startswith("qt_"):
            setattr(ui, str(child.objectName), child)
    return ui


def qt_module() -> types.ModuleType:
    """Module ``qt``."""
    module = types.ModuleType("qt")
    for source in (QtCore, QtGui, QtWidgets):
        for name in dir(source):
            if name.startswith("Q"):
                setattr(module, name, getattr(source, name))
    for name in _WIDGETS:
        setattr(module, name, CLASSES[name])
    module.QTimer = pythonqt(QtCore.QTimer)  # type: ignore[attr-defined]
    enums = (QtCore.Qt.CheckState, QtCore.Qt.Orientation, QtCore.Qt.AlignmentFlag)
    flat = {name: flag for enum in enums for name, flag in enum.__members__.items()}
    module.Qt = types.SimpleNamespace(**flat)  # type: ignore[attr-defined]
    return module


def ctk_module() -> types.ModuleType:
    """Module ``ctk``."""
    module = types.ModuleType("ctk")
    module.ctkPathLineEdit = types.SimpleNamespace(Dirs=_PathEdit.DIRS, Files=_PathEdit.FILES)  # type: ignore[attr-defined]
    module.ctkCollapsibleButton = CLASSES["ctkCollapsibleButton"]  # type: ignore[attr-defined]
    return module


class Choice:
    """Annotation: the values a parameter can take."""

    def __init__(self, choices: list[Any]) -> None:
        self.choices = choices

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"{value!r} is none of {self.choices}")


class WithinRange:
    """Annotation: least and greatest value of a parameter."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value!r} is not within {self.minimum} and {self.maximum}")


PLAIN = (str, bool, float)


class _Parameter:
    """One parameter of a parameter node, as Slicer stores it."""

    def __init__(self, name: str, annotation: Any, default: Any) -> None:
        self.name, self.default = name, default
        self.kind = typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation
        self.validators = typing.get_args(annotation)[1:] if self.kind is not annotation else ()

    def annotation(self, kind: type) -> Any:
        return next((validator for validator in self.validators if isinstance(validator, kind)), None)

    def read(self, node: Any) -> Any:
        if self.kind in PLAIN:
            text = node.GetParameter(self.name)
            return text == "True" if self.kind is bool else self.kind(text)
        return node.GetNodeReference(self.name)

    def write(self, node: Any, value: Any) -> None:
        if self.kind in PLAIN:
            if not isinstance(value, self.kind):
                raise TypeError(f"{value!r} is no value of {self.name}")
            for validator in self.validators:
                validator.validate(value)
            node.SetParameter(self.name, str(value))
        else:
            node.SetNodeReferenceID(self.name, None if value is None else value.GetID())
            node.Modified()


class _Connector:
    """Binds a widget to a parameter; the widget keeps it, so it works until it is told to let go."""

    def __init__(self, widget: Any, parameter: _Parameter) -> None:
        self._widget, self._kind = widget, parameter.kind
        self._connection: Any = None
        choice, within = parameter.annotation(Choice), parameter.annotation(WithinRange)
        self._choices = [] if choice is None else choice.choices
        if self._kind is float:  # what the .ui file says is lost
            widget.minimum = -math.inf if within is None else within.minimum
            widget.maximum = math.inf if within is None else within.maximum
        if choice is not None:
            widget.clear()
            for item in self._choices:
                widget.addItem(str(item))

    def on_changed(self, callback: Any) -> None:
        if callback is None:
            _changed(self._widget).disconnect(self._connection)
        else:
            self._connection = _changed(self._widget).connect(lambda *_: callback())

    def read(self) -> Any:
        if self._kind is bool:
            return self._widget.checked
        if self._kind is float:
            return self._widget.value
        return self._choices[self._widget.currentIndex] if self._choices else self._widget.currentNode()

    def write(self, value: Any) -> None:
        if self._kind is bool:
            self._widget.checked = value
        elif self._kind is float:
            self._widget.value = value
        elif self._choices:
            self._widget.setCurrentIndex(self._choices.index(value))
        else:
            self._widget.setCurrentNode(value)


def parameter_node_wrapper(cls: type) -> type:
    """``@parameterNodeWrapper`` for str, bool, float and node parameters."""
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _Parameter(name, hint, getattr(cls, name, None)) for name, hint in hints.items()}

    def initialise(self: Any, node: Any) -> None:
        self.parameterNode, self._guis, self._next_tag, self._updating = node, {}, 0, False
        for p in parameters.values():
            if p.kind in PLAIN and p.name not in node.GetParameterNames():
                p.write(node, p.default)

    def update(self: Any) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            for connectors in list(self._guis.values()):
                for name, connector in connectors.items():
                    connector.write(parameters[name].read(self.parameterNode))
        finally:
            self._updating = False

    def keep(self: Any, name: str, connector: _Connector) -> None:
        if not self._updating:
            parameters[name].write(self.parameterNode, connector.read())

    def connect_parameters(self: Any, widgets: dict[str, Any]) -> int:
        connectors = {name: _Connector(widget, parameters[name]) for name, widget in widgets.items()}
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        self._guis[tag] = connectors
        for name, connector in connectors.items():
            connector.write(parameters[name].read(self.parameterNode))
            connector.on_changed(lambda name=name, connector=connector: keep(self, name, connector))
        self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: update(self))
        return tag

    def connect_gui(self: Any, ui: Any) -> None:
        """As in released versions of Slicer: the tag is not returned."""
        named = ((widget.property("SlicerParameterName"), widget) for widget in vars(ui).values())
        connect_parameters(self, {name: widget for name, widget in named if name})

    def disconnect_gui(self: Any, tag: Any) -> None:
        for connector in self._guis.pop(tag, {}).values():
            connector.on_changed(None)

    members: dict[str, Any] = {
        name: property(
            lambda self, p=p: p.read(self.parameterNode), lambda self, value, p=p: p.write(self.parameterNode, value)
        )
        for name, p in parameters.items()
    }
    members |= {"__init__": initialise, "disconnectGui": disconnect_gui}
    members |= {"connectGui": connect_gui, "connectParametersToGui": connect_parameters}
    return type(cls.__name__, (), members)


def _changed(widget: Any) -> Any:
    if hasattr(widget, "currentNodeChanged"):
        return widget.currentNodeChanged
    if hasattr(widget, "valueChanged"):
        return widget.valueChanged
    return widget.toggled if hasattr(widget, "toggled") else widget.currentIndexChanged


def sample_data_module() -> types.ModuleType:
    """Module ``SampleData``; ``SampleDataLogic.sources`` lists what was registered."""

    class SampleDataLogic:
        sources: typing.ClassVar[list[dict[str, Any]]] = []

        @staticmethod
        def registerCustomSampleDataSource(
            category: str = "Custom",
            sampleName: Any = None,
            uris: Any = None,
            fileNames: Any = None,
            nodeNames: Any = None,
            customDownloader: Any = None,
            thumbnailFileName: Any = None,
            loadFileType: Any = None,
            loadFiles: Any = None,
            loadFileProperties: Any = None,
            checksums: Any = None,
        ) -> None:
            SampleDataLogic.sources.append(dict(locals()))

    module = types.ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic  # type: ignore[attr-defined]
    return module


class _Module:
    def __init__(self, parent: Any) -> None:
        self.parent = parent


class _Widget:
    RESOURCES = Path()

    def __init__(self, parent: Any = None) -> None:
        self.parent = parent if parent is not None else CLASSES["qMRMLWidget"]()
        if self.parent.layout() is None:
            self.parent.setLayout(QtWidgets.QVBoxLayout())
        self.layout = self.parent.layout()

    def setup(self) -> None:
        self.wasSetUp = True

    def resourcePath(self, name: str) -> str:
        return str(self.RESOURCES / name)


class _Logic:
    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self) -> Any:
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetAttribute("ModuleName", self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


def _test_base() -> type:
    import unittest

    return type("ScriptedLoadableModuleTest", (unittest.TestCase,), {"delayDisplay": lambda self, text: None})


def install(monkeypatch: Any, resources: Path) -> None:
    """Put the stand-ins in place of the application for one test."""
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["test"])
    started: list[Any] = []
    app = types.SimpleNamespace(
        connect=lambda signal, slot: started.append((signal, slot)), started=started, qt=application
    )
    monkeypatch.setattr(slicer, "app", app, raising=False)
    monkeypatch.setattr(slicer.util, "loadUI", load_ui)
    monkeypatch.setattr(slicer.util, "childWidgetVariables", child_widget_variables)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None)
    widget = type("ScriptedLoadableModuleWidget", (_Widget,), {"RESOURCES": resources})
    modules = {
        "qt": qt_module(),
        "ctk": ctk_module(),
        "SampleData": sample_data_module(),
        "slicer.i18n": types.SimpleNamespace(tr=lambda text: text, translate=lambda context, text: text),
        "slicer.parameterNodeWrapper": types.SimpleNamespace(
            Choice=Choice, WithinRange=WithinRange, parameterNodeWrapper=parameter_node_wrapper
        ),
        "slicer.ScriptedLoadableModule": types.SimpleNamespace(
            ScriptedLoadableModule=_Module,
            ScriptedLoadableModuleWidget=widget,
            ScriptedLoadableModuleLogic=_Logic,
            ScriptedLoadableModuleTest=_test_base(),
        ),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
