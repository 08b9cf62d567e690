"""RT structure sets, read and written."""

from focusnet.io.rtstruct_parse import RawStructureSet, Roi, find_structure_sets, parse_rtstruct
from focusnet.io.rtstruct_read import NO_CONTOURS, RTStructRules, Structure, StructureSet, read_rtstruct
from focusnet.io.rtstruct_write import RTStructOptions, RTStructSummary, write_rtstruct

__all__ = [
    "NO_CONTOURS",
    "RTStructOptions",
    "RTStructRules",
    "RTStructSummary",
    "RawStructureSet",
    "Roi",
    "Structure",
    "StructureSet",
    "find_structure_sets",
    "parse_rtstruct",
    "read_rtstruct",
    "write_rtstruct",
]
