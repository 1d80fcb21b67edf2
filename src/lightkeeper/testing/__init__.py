"""For those who test Lightkeeper or write a plug-in: conformance suites and faults to inject."""
