"""A scene becomes what is said about it: questions, answers, conversations, plain words."""
