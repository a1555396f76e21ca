"""Operations on maps and boxes that networks and tasks share."""
