"""Write a found network as a file for other runtimes: .pt2 (torch.export), .onnx, .tflite or .pte (ExecuTorch)."""

from supernet.cli.export import main  # the code, which the installed command has too

if __name__ == "__main__":
    main()
