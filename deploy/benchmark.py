from paddleseg_psp.commands.benchmark import main

if __name__ == "__main__":
    main()
