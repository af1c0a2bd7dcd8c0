// --- The report of a comparison

section("header", header);
section("#training", modelTable);
section("#loss", lossChart);
section("#flow", flowSection);
section("#inside", insideSection);
section("#scaling", scalingSection);
section("#streaming", streamingSection);
section("#adding", addingSection);
section("#lengths", lengthsSection);
section("#truncation", truncationSection);
show(data);
