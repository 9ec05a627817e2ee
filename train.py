from paddleseg_psp.commands.train import main

if __name__ == "__main__":
    main()
