from paddleseg_psp.commands.quantize import main

if __name__ == "__main__":
    main()
