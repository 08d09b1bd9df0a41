"""Test accuracy of the teacher."""

from kdbench.report.column import COLUMNS, Column, percent_text

COLUMNS.add(
    "teacher_accuracy",
    Column(
        key="teacher_accuracy",
        title="teacher's accuracy",
        unit="%",
        better=None,  # a property of the teacher: it says nothing for or against the student
        order=80,
        value=lambda row: row.teacher_accuracy,
        text=percent_text,
        applies=lambda row: bool(row.spec.teachers),
        note="of the very run it learned from; the mean where there are several teachers",
    ),
)
